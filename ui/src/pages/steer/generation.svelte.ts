// One run: events of the server as they come, and what they add up to.

import { isAbort, Problem } from '$/api/client';
import { post } from '$/api/events';
import type { Guard, PlaceTrace, SteerDone, SteerRequest, SteerStart, SteerToken, SteerTrace } from '$/api/types';

export type Phase = 'idle' | 'waiting' | 'running' | 'done' | 'stopped' | 'failed';

export class Generation {
  phase: Phase = $state('idle');
  /** What was asked. */
  asked: SteerRequest | null = $state.raw(null);
  start: SteerStart | null = $state.raw(null);
  baseline: SteerToken[] = $state.raw([]);
  steered: SteerToken[] = $state.raw([]);
  places: PlaceTrace[] = $state.raw([]);
  guard: Guard | null = $state.raw(null);
  done: SteerDone | null = $state.raw(null);
  problem: Problem | null = $state.raw(null);
  #abort: AbortController | null = null;

  get busy(): boolean {
    return this.phase === 'waiting' || this.phase === 'running';
  }

  /** KL and change of the prediction that chose a generated token. */
  place(n: number): PlaceTrace | null {
    const position = (this.start?.tokens.length ?? 0) + n - 1;
    return this.#byPosition.get(position) ?? null;
  }
  #byPosition = $derived(new Map(this.places.map((place) => [place.position, place])));

  async run(asked: SteerRequest): Promise<void> {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    this.asked = asked;
    this.phase = 'waiting';
    this.start = this.guard = this.done = this.problem = null;
    this.baseline = this.steered = [];
    this.places = [];
    try {
      for await (const { event, data } of post('steer', asked, abort.signal)) {
        if (abort.signal.aborted) return;
        this.#take(event, data);
      }
      if (this.busy) throw new Problem(0, { title: 'The stream ended early', detail: 'The server closed the connection before the texts were done. Run it again.' });
    } catch (error) {
      if (abort.signal.aborted || isAbort(error)) return;
      this.phase = 'failed';
      this.problem = error instanceof Problem ? error : new Problem(-1, { title: 'The connection broke', detail: 'The server went away before the texts were done. Run it again.' });
    }
  }

  stop(): void {
    this.#abort?.abort();
    if (this.busy) this.phase = 'stopped';
  }

  #take(event: string, data: unknown): void {
    if (event === 'start') {
      this.start = data as SteerStart;
      this.phase = 'running';
    } else if (event === 'baseline.token') this.baseline = [...this.baseline, data as SteerToken];
    else if (event === 'steered.token') this.steered = [...this.steered, data as SteerToken];
    else if (event === 'trace') this.places = [...this.places, ...(data as SteerTrace).places];
    else if (event === 'guard') this.guard = data as Guard;
    else if (event === 'done') {
      this.done = data as SteerDone;
      this.phase = 'done';
    } else if (event === 'error') {
      const problem = data as Record<string, unknown>;
      this.problem = new Problem(Number(problem['status'] ?? 500), problem);
      this.phase = 'failed';
    }
  }
}
