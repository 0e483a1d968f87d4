// A job in words.

import type { Progress } from '$/api/types';
import { duration, integer, number } from './format';

/** How far, how fast, how long yet. */
export function progressText(progress: Progress | null): string {
  if (!progress) return 'waiting';
  const parts = [`${progress.task}: ${integer(progress.done)}${progress.total ? ` of ${integer(progress.total)}` : ''} ${progress.unit}`.trim()];
  if (progress.rate) parts.push(`${number(progress.rate)}/s`);
  if (progress.seconds_left !== null) parts.push(`${duration(progress.seconds_left)} left`);
  return parts.join(' · ');
}
