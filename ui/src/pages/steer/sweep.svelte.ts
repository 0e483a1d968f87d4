// The same edits at several strengths, one run after another: each one's text, how far it moves predictions, its guard.

import { isAbort, Problem } from '$/api/client';
import { post } from '$/api/events';
import type { Guard, SteerDone, SteerRequest } from '$/api/types';

/** What strengths are multiplied by. */
export const FACTORS = [-1, 0.25, 0.5, 1, 1.5, 2, 3] as const;
/** Tokens of each: enough to see where a text goes. */
const LENGTH = 32;

export interface Step {
  factor: number;
  done: SteerDone | null;
  guard: Guard | null;
  problem: Problem | null;
}

export class Sweep {
  /** What was asked; its strengths are those of factor 1. */
  asked: SteerRequest | null = $state.raw(null);
  steps: Step[] = $state.raw([]);
  busy = $state(false);
  #abort: AbortController | null = null;

  /** Run at every strength, the usual one's neighbors first. One seed for all, so that only strength differs. */
  async run(asked: SteerRequest): Promise<void> {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    const seed = asked.seed ?? Math.floor(Math.random() * 2 ** 31);
    this.asked = { ...asked, seed, max_tokens: Math.min(asked.max_tokens ?? LENGTH, LENGTH), guard: true };
    this.steps = FACTORS.map((factor) => ({ factor, done: null, guard: null, problem: null }));
    this.busy = true;
    for (const [at, factor] of FACTORS.entries()) {
      if (abort.signal.aborted) return;
      const step = await this.#step(this.asked, factor, abort.signal);
      if (step) this.steps = this.steps.with(at, step);
    }
    this.busy = false;
  }

  stop(): void {
    this.#abort?.abort();
    this.busy = false;
  }

  async #step(asked: SteerRequest, factor: number, signal: AbortSignal): Promise<Step | null> {
    const step: Step = { factor, done: null, guard: null, problem: null };
    const edits = asked.edits.map((edit) => ({ ...edit, strength: (edit.strength ?? 0) * factor }));
    try {
      for await (const { event, data } of post('steer', { ...asked, edits }, signal)) {
        if (event === 'guard') step.guard = data as Guard;
        else if (event === 'done') step.done = data as SteerDone;
        else if (event === 'error') step.problem = new Problem(500, data as Record<string, unknown>);
      }
    } catch (error) {
      if (signal.aborted || isAbort(error)) return null;
      step.problem = error instanceof Problem ? error : new Problem(-1, { title: 'The connection broke', detail: String(error) });
    }
    return step;
  }
}
