// A run in Markdown: what was asked, both texts, what it cost, and the address that repeats it.

import type { Guard, SteerDone, SteerRequest } from '$/api/types';
import { number } from '$/lib/format';

const MOST = 90_000;

/** Text as a block that nothing in it can end. */
function block(text: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map((run) => run[0].length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}

export function noteOf(asked: SteerRequest, done: SteerDone, guard: Guard | null, address: string): string {
  const prompt = asked.text ?? asked.messages?.map((turn) => `${turn.role}: ${turn.content}`).join('\n') ?? '';
  const edits = asked.edits.map((edit) => `- ${edit.dict}/${edit.feature}: ${edit.op}${edit.op === 'ablate' ? '' : ` ${edit.strength} ${edit.unit ?? ''}`.trimEnd()}`);
  const url = new URL(address);
  url.searchParams.set('seed', String(done.seed));
  const parts = [
    `Steered, ${asked.max_tokens} tokens, temperature ${asked.temperature}, seed ${done.seed}`,
    edits.join('\n'),
    `Prompt\n${block(prompt)}`,
    `Baseline\n${block(done.baseline)}`,
    `Steered\n${block(done.steered)}`,
    `Mean KL ${number(done.mean_kl)}${guard ? `; guard: ${guard.ok ? 'coherent' : guard.reasons.join('; ')}` : ''}`,
    url.pathname + url.search + url.hash,
  ];
  return parts.join('\n\n').slice(0, MOST);
}
