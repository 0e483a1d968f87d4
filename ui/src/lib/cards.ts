// A dictionary in words: the numbers of its card, its place, how it is made.

import type { Card } from '$/api/types';
import type { Fact } from '$/components/Facts.svelte';
import { integer, number, percent } from './format';

export function qualityFacts(card: Card): Fact[] {
  const { fvu, l0, ce_recovered, dead_share } = card.stats;
  const shown = (value: number | null, form: (value: number) => string): string => (value === null ? 'not measured' : form(value));
  return [
    { name: 'FVU', value: shown(fvu, number), note: 'Fraction of variance unexplained: 0 is perfect, 1 no better than the mean' },
    { name: 'L0', value: shown(l0, number), note: 'Features active on a token, on average' },
    { name: 'CE recovered', value: shown(ce_recovered, percent), note: "Share of the model's loss restored when the dictionary is spliced in" },
    { name: 'Dead', value: shown(dead_share, percent), note: 'Features that never fired on the analyzed text' },
  ];
}

/** Sites it reads and writes, as one text. */
export function sites(card: Card): string {
  const reads = card.reads.join(', ');
  const writes = card.writes.join(', ');
  return reads === writes ? reads : `${reads} → ${writes}`;
}

/** Wiring, function and k. */
export function made(card: Card): string {
  return [card.wiring, card.function + (card.k === null ? '' : `, k = ${integer(card.k)}`)].join(' · ');
}

export function modelName(card: { model: string | null }): string {
  return card.model?.replace(/\/+$/, '').split('/').at(-1) ?? 'no model';
}
