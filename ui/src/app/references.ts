// Features as people write them: 4232, #4232, dict/4232, gemma-2-2b/20-gemmascope-res-16k/4232.

import type { Card } from '$/api/types';

export interface Reference {
  dict: string;
  feature: number;
}

/** The features that a text may mean, in the open dictionary first. */
export function references(text: string, cards: readonly Card[], open: string | null): Reference[] {
  const found = /^\s*(?:(.*)[/:#\s])?#?(\d{1,10})\s*$/.exec(text);
  if (!found) return [];
  const feature = Number(found[2]);
  const where = (found[1] ?? '').toLowerCase().replace(/[/:#\s]+$/, '');
  const fits = (card: Card): boolean => {
    if (feature >= card.n_features) return false;
    if (!where) return true;
    const names = [card.id, card.name, `${card.model?.split('/').at(-1) ?? ''}/${card.id}`].map((name) => name.toLowerCase());
    return names.some((name) => name === where) || names.some((name) => name.endsWith(`/${where}`) || name.startsWith(where));
  };
  return cards
    .filter(fits)
    .toSorted((a, b) => Number(b.id === open) - Number(a.id === open))
    .map((card) => ({ dict: card.id, feature }));
}
