// Jobs begun from a page: what is asked, and the page that shows how it goes.

import { api } from '$/api/client';
import type { Job } from '$/api/types';
import { href, router } from './router.svelte';

/** Start a job and go to its log. Throws a Problem where it cannot be started. */
export async function startJob(job: { kind: 'analyze'; path: string } | { kind: 'sample' }): Promise<void> {
  const started = await api.post<Job>('jobs', job);
  router.go(href('/jobs', { log: started.id }));
}
