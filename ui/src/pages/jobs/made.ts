// What a job made: where it is shown, and its numbers.

import type { Job } from '$/api/types';
import { dictionaryHref, href } from '$/app/router.svelte';

/** Address of a comparison, with the settings it was asked with. */
export function comparisonHref(job: Job): string {
  const config = job.config as { dicts?: string[]; by?: string; threshold?: number; tokens?: number };
  return href('/compare', { dicts: config.dicts?.join(','), by: config.by === 'activations' ? config.by : null, t: config.threshold === 0.7 ? null : config.threshold, n: config.tokens === 16_384 ? null : config.tokens, job: job.id });
}

/** What a job made, or is making: where it is shown, in how few words; null where nothing is to be seen. */
export function madeBy(job: Job): { text: string; to: string } | null {
  if (job.kind === 'compare') return job.state === 'done' || job.state === 'running' ? { text: 'Comparison', to: comparisonHref(job) } : null;
  if (job.state !== 'done') return null;
  const dict = job.kind === 'analyze' || job.kind === 'sample' ? job.result?.['dictionary'] : job.config['dict'];
  return typeof dict === 'string' ? { text: 'Dictionary', to: dictionaryHref(dict) } : null;
}

/** The main numbers of an evaluation, by name. */
export function figuresOf(job: Job): [string, number][] {
  if (job.state !== 'done' || job.kind !== 'evaluate') return [];
  const { fidelity, firing } = (job.result ?? {}) as { fidelity?: Record<string, unknown>; firing?: Record<string, unknown> };
  const all: [string, unknown][] = [['fvu', fidelity?.['fvu']], ['l0', firing?.['l0']], ['dead', firing?.['dead_share']]];
  return all.filter((entry): entry is [string, number] => typeof entry[1] === 'number');
}
