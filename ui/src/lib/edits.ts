// Edits as lines of the address: demo/12,add,0.2,norm, and ",off" behind one that rests. What operators and units there
// are, and how far a slider reaches.

import type { EditIn } from '$/api/types';

export type Op = EditIn['op'];
export type Unit = NonNullable<EditIn['unit']>;

export interface Edit {
  dict: string;
  feature: number;
  op: Op;
  strength: number;
  unit: Unit | null;
  on: boolean;
}

export const MOST = 16;

export const OPS: { op: Op; title: string; help: string; units: Unit[]; strength: number }[] = [
  { op: 'add', title: 'Add', help: 'Adds the feature’s direction at every token', units: ['norm', 'local', 'maxact', 'raw'], strength: 0.2 },
  { op: 'clamp', title: 'Set to', help: 'The activation becomes this, wherever it was', units: ['maxact', 'raw'], strength: 1 },
  { op: 'floor', title: 'At least', help: 'The activation becomes at least this', units: ['maxact', 'raw'], strength: 0.5 },
  { op: 'cap', title: 'At most', help: 'The activation becomes at most this', units: ['maxact', 'raw'], strength: 0.5 },
  { op: 'scale', title: 'Times', help: 'The activation is multiplied where it fires', units: [], strength: 2 },
  { op: 'ablate', title: 'Ablate', help: 'The activation becomes 0', units: [], strength: 0 },
];

export const UNITS: Record<Unit, { title: string; help: string }> = {
  norm: { title: '× norm', help: 'Shares of the usual norm at the site: comparable across layers and models' },
  local: { title: '× |x|', help: 'Shares of each token’s own norm' },
  maxact: { title: '× max', help: 'As strong as it ever fires: multiples of its 99.9th percentile' },
  raw: { title: 'raw', help: 'In the dictionary’s own units' },
};

export interface Reach {
  low: number;
  high: number;
  step: number;
}

/** How far a slider reaches; the number beside it takes anything. */
export function reach({ op, unit }: Pick<Edit, 'op' | 'unit'>): Reach {
  if (op === 'scale') return { low: -1, high: 4, step: 0.05 };
  if (unit === 'norm' || unit === 'local') return { low: -1, high: 1, step: 0.01 };
  if (unit === 'maxact') return { low: op === 'add' ? -2 : 0, high: op === 'add' ? 2 : 3, step: 0.05 };
  return { low: op === 'add' ? -50 : 0, high: 50, step: 0.5 };
}

/** An edit with another operator: its unit and strength are those that the operator begins with. */
export function withOp(edit: Edit, op: Op): Edit {
  const about = OPS.find((known) => known.op === op);
  const keeps = edit.unit !== null && about?.units.includes(edit.unit);
  return { ...edit, op, unit: keeps ? edit.unit : (about?.units[0] ?? null), strength: keeps ? edit.strength : (about?.strength ?? 0) };
}

export function newEdit(dict: string, feature: number): Edit {
  return { dict, feature, op: 'add', strength: 0.2, unit: 'norm', on: true };
}

export function encode(edit: Edit): string {
  return [`${edit.dict}/${edit.feature}`, edit.op, String(edit.strength), edit.unit ?? '', ...(edit.on ? [] : ['off'])].join(',');
}

/** An edit out of a line; null where the line is none. */
export function decode(line: string): Edit | null {
  const [who = '', op = '', amount = '', unit = '', off] = line.split(',');
  const found = /^([a-z0-9][a-z0-9._-]{0,127})\/(\d{1,10})$/.exec(who);
  const about = OPS.find((known) => known.op === op);
  const strength = Number(amount);
  if (!found || !about || !Number.isFinite(strength) || Math.abs(strength) > 1e6) return null;
  const known = about.units.find((one) => one === unit) ?? about.units[0] ?? null;
  return { dict: found[1] ?? '', feature: Number(found[2]), op: about.op, strength, unit: known, on: off !== 'off' };
}

/** What its strength came to, in words. */
export function means(edit: Pick<EditIn, 'op' | 'unit'>, value: number, write: (value: number) => string): string {
  if (edit.op === 'ablate') return 'activation 0';
  if (edit.op === 'scale') return `× ${write(value)}`;
  if (edit.op !== 'add') return `activation ${write(value)}`;
  if (edit.unit === 'local') return `${write(value)} of each norm`;
  return edit.unit === 'norm' ? `length ${write(value)}` : `${write(value)} × direction`;
}
