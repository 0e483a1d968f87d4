// The token that a feature fires on most, for features that have no label to be known by. Asked for in one request a
// dictionary, and kept.

import { SvelteMap } from 'svelte/reactivity';
import { getPage } from './features';

const MOST = 200;
const tokens = new SvelteMap<string, string | null>();

/** Its most frequent token, as far as it is known. */
export function topToken(dict: string, feature: number): string | null {
  return tokens.get(`${dict}/${feature}`) ?? null;
}

/** Ask for those that are not known yet. What fails stays unknown: numbers stand for features then. */
export async function glance(list: readonly { dict: string; feature: number }[]): Promise<void> {
  const wanted = new Map<string, Set<number>>();
  for (const { dict, feature } of list) {
    if (tokens.has(`${dict}/${feature}`)) continue;
    wanted.set(dict, (wanted.get(dict) ?? new Set()).add(feature));
  }
  await Promise.allSettled(
    [...wanted].map(async ([dict, features]) => {
      const some = [...features].slice(0, MOST);
      for (const feature of some) tokens.set(`${dict}/${feature}`, null);
      const page = await getPage(dict, { filter: [{ column: 'feature', op: 'in', value: some }], sort: '', columns: ['top_token'], offset: 0, limit: MOST });
      for (const [i, feature] of (page.columns['feature'] ?? []).entries()) {
        const text = page.columns['top_token']?.[i];
        tokens.set(`${dict}/${feature}`, typeof text === 'string' ? text : null);
      }
    }),
  );
}
