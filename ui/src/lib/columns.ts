// Columns of the table of features: short names, widths, and how a value is written.

import type { TableColumn } from '$/components/VirtualTable.svelte';
import type { Column } from '$/api/types';
import { chip } from './tokens';
import { integer, number, percent } from './format';
import type { Cell } from './rows.svelte';

const TITLES: Record<string, string> = {
  feature: '#',
  label: 'Label',
  label_source: 'Label from',
  score: 'Score',
  tags: 'Tags',
  bookmarked: 'Bookmarked',
  density: 'Firing rate',
  n_fired: 'Firings',
  n_sequences: 'Sequences',
  max_act: 'Max',
  p999_act: '99.9 %',
  mean_act: 'Mean',
  std_act: 'Spread',
  is_dead: 'Dead',
  dec_norm: 'Decoder norm',
  enc_norm: 'Encoder norm',
  enc_dec_cos: 'Enc·dec',
  top_token: 'Top token',
  top_token_share: 'Its share',
  first_pos_share: 'First position',
  logit_max: 'Logit max',
  logit_min: 'Logit min',
  logit_kurtosis: 'Logit kurtosis',
  best_score: 'Best score',
  cluster: 'Cluster',
  promotes: 'Promotes token',
  suppresses: 'Suppresses token',
  fires_on: 'Fires on token',
};
const SHARES = new Set(['density', 'top_token_share', 'first_pos_share', 'score', 'best_score']);
/** Asked for, never shown. */
export const ASKED = new Set(['promotes', 'suppresses', 'fires_on']);
const TOKENS = new Set(['top_token', 'promotes', 'suppresses', 'fires_on']);

/** Columns to begin with: labels come first once there are some. */
export function defaultColumns(labeled: boolean): string[] {
  return labeled
    ? ['label', 'density', 'max_act', 'top_token', 'top_token_share', 'score', 'tags']
    : ['density', 'max_act', 'top_token', 'top_token_share', 'logit_max', 'first_pos_share', 'label', 'tags'];
}

export function title(name: string): string {
  return TITLES[name] ?? name.replaceAll('_', ' ');
}

export function tableColumns(names: readonly string[], known: readonly Column[]): TableColumn[] {
  const columns = new Map(known.map((column) => [column.name, column]));
  return ['feature', ...names].map((name) => {
    const column = columns.get(name);
    const text = column ? column.type === 'text' || column.type === 'texts' : false;
    const numeric = column ? column.type === 'number' || column.type === 'integer' : true;
    return {
      name,
      title: title(name),
      width: name === 'label' ? 'minmax(10rem, 3fr)' : name === 'feature' ? '4.5rem' : text ? 'minmax(7rem, 1fr)' : 'minmax(6.5rem, 0.6fr)',
      sorts: column?.type !== 'texts',
      ...(numeric ? { align: 'right' as const } : {}),
      ...(column?.help ? { help: column.help } : {}),
    };
  });
}

/** A cell's value as text. */
export function cellText(name: string, value: Cell): string {
  if (value === null) return '';
  if (typeof value === 'boolean') return value ? 'yes' : '';
  if (Array.isArray(value)) return value.join(', ');
  if (typeof value === 'string') return TOKENS.has(name) ? chip(value) : value;
  if (SHARES.has(name)) return percent(value);
  return Number.isInteger(value) ? integer(value) : number(value);
}

export function isToken(name: string): boolean {
  return TOKENS.has(name);
}
