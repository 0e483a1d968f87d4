// A grid of runs, one after another: each steered feature alone, and all of them together, at several strengths.

import { isAbort, Problem } from '$/api/client';
import { post } from '$/api/events';
import type { EditIn, Guard, SteerDone, SteerRequest } from '$/api/types';

/** What strengths are multiplied by. */
export const FACTORS = [-1, 0.25, 0.5, 1, 1.5, 2, 3] as const;
/** Tokens of each: enough to see where a text goes. */
const LENGTH = 32;

export interface Step {
  factor: number;
  /** The edits, at this strength. */
  edits: EditIn[];
  done: SteerDone | null;
  guard: Guard | null;
  problem: Problem | null;
}

/** What is edited together in a row of the grid. */
export interface Row {
  edits: EditIn[];
  steps: Step[];
}

/** An ablation has no strength. */
export function hasStrength(edits: readonly { op: string }[]): boolean {
  return edits.some((edit) => edit.op !== 'ablate');
}

export class Sweep {
  /** What was asked; its strengths are those of factor 1. */
  asked: SteerRequest | null = $state.raw(null);
  rows: Row[] = $state.raw([]);
  busy = $state(false);
  #abort: AbortController | null = null;

  get steps(): Step[] {
    return this.rows.flatMap((row) => row.steps);
  }

  /** Run every row at every strength. One seed for all, so that only the edits differ. */
  async run(asked: SteerRequest): Promise<void> {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    const seed = asked.seed ?? Math.floor(Math.random() * 2 ** 31);
    this.asked = { ...asked, seed, max_tokens: Math.min(asked.max_tokens ?? LENGTH, LENGTH), guard: true };
    const alone = asked.edits.filter((edit) => hasStrength([edit])).map((edit) => [edit]);
    this.rows = (asked.edits.length > 1 ? [asked.edits, ...alone] : alone).map((edits) => ({
      edits,
      steps: FACTORS.map((factor) => ({ factor, edits: edits.map((edit) => ({ ...edit, strength: (edit.strength ?? 0) * factor })), done: null, guard: null, problem: null })),
    }));
    this.busy = true;
    for (const [r, row] of this.rows.entries()) {
      for (const [at, before] of row.steps.entries()) {
        const step = await this.#step(this.asked, before, abort.signal);
        if (abort.signal.aborted) return;
        this.rows = this.rows.with(r, { ...row, steps: (this.rows[r] ?? row).steps.with(at, step) });
      }
    }
    this.busy = false;
  }

  stop(): void {
    this.#abort?.abort();
    this.busy = false;
  }

  async #step(asked: SteerRequest, { factor, edits }: Step, signal: AbortSignal): Promise<Step> {
    const step: Step = { factor, edits, done: null, guard: null, problem: null };
    try {
      for await (const { event, data } of post('steer', { ...asked, edits }, signal)) {
        if (event === 'guard') step.guard = data as Guard;
        else if (event === 'done') step.done = data as SteerDone;
        else if (event === 'error') step.problem = new Problem(500, data as Record<string, unknown>);
      }
    } catch (error) {
      if (!signal.aborted && !isAbort(error)) step.problem = error instanceof Problem ? error : new Problem(-1, { title: 'The connection broke', detail: String(error) });
    }
    return step;
  }
}
