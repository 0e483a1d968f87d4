// A job as it goes on: its row, kept up to date by its events.

import { api, isAbort, Problem } from '$/api/client';
import { follow } from '$/api/events';
import type { Job, JobEvent, Progress } from '$/api/types';

const ENDED = new Set(['done', 'failed', 'cancelled']);

export class Watched {
  job: Job | null = $state.raw(null);
  problem: Problem | null = $state.raw(null);

  get ended(): boolean {
    return this.job !== null && ENDED.has(this.job.state);
  }

  /** Follow a job until it ends or nobody looks any more; returns what gives it up. */
  watch(id: string, known: Job | null = null): () => void {
    const abort = new AbortController();
    this.problem = null;
    this.job = known?.id === id ? known : null;
    void this.#follow(id, abort.signal);
    return () => abort.abort();
  }

  async cancel(): Promise<void> {
    if (this.job) this.job = await api.delete<Job>(`jobs/${this.job.id}`);
  }

  async #follow(id: string, signal: AbortSignal): Promise<void> {
    try {
      this.job = await api.get<Job>(`jobs/${id}`, {}, signal);
      if (this.ended) return;
      for await (const { event, data } of follow(`jobs/${id}/events`, signal)) {
        if (signal.aborted) return;
        if (event === 'end') this.job = data as Job;
        else if (event === 'progress') this.job = { ...this.job, state: this.job.state === 'queued' ? 'running' : this.job.state, progress: (data as JobEvent).body as Progress };
        else if (event === 'state') {
          const state = (data as JobEvent).body['state'];
          if (typeof state === 'string' && !ENDED.has(state)) this.job = { ...this.job, state: state as Job['state'] };
        }
      }
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      this.problem = error instanceof Problem ? error : new Problem(-1, { title: 'Something is wrong', detail: String(error) });
    }
  }
}
