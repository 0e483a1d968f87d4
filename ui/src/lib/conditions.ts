// Conditions of a table as one line each, for the URL and for people: density<0.001, label:none, promotes= cat.

import type { Column, Condition } from '$/api/types';
import { chip } from './tokens';
import { number, percent } from './format';
import { isToken, title } from './columns';

export type Operator = Condition['op'];

const SIGNS: [string, Operator][] = [
  ['<=', '<='],
  ['>=', '>='],
  ['!=', '!='],
  ['*=', 'contains'],
  ['^=', 'prefix'],
  ['~', 'matches'],
  ['<', '<'],
  ['>', '>'],
  ['=', '='],
];
export const WORDS: Record<Operator, string> = {
  '=': '=',
  '!=': '≠',
  '<': '<',
  '<=': '≤',
  '>': '>',
  '>=': '≥',
  in: 'is one of',
  contains: 'contains',
  prefix: 'begins with',
  matches: 'matches',
  is_null: 'has none',
  not_null: 'has any',
};

export function encode(condition: Condition): string {
  if (condition.op === 'is_null') return `${condition.column}:none`;
  if (condition.op === 'not_null') return `${condition.column}:any`;
  if (condition.op === 'in') return `${condition.column}:in${JSON.stringify(condition.value)}`;
  const sign = SIGNS.find(([, op]) => op === condition.op)?.[0] ?? '=';
  return `${condition.column}${sign}${String(condition.value)}`;
}

/** A condition from its line; null where the line is none, or its column is not known. */
export function decode(line: string, columns: readonly Column[]): Condition | null {
  const found = /^([a-z][a-z0-9_]*)\s*(:none|:any|:in|<=|>=|!=|\*=|\^=|~|<|>|=)([\s\S]*)$/.exec(line);
  if (!found) return null;
  const [, name = '', sign = '', rest = ''] = found;
  const column = columns.find((known) => known.name === name);
  if (!column) return null;
  if (sign === ':none' || sign === ':any') return { column: name, op: sign === ':none' ? 'is_null' : 'not_null', value: null };
  if (sign === ':in') {
    try {
      const value: unknown = JSON.parse(rest);
      return Array.isArray(value) ? { column: name, op: 'in', value: value as string[] } : null;
    } catch {
      return null;
    }
  }
  const op = SIGNS.find(([text]) => text === sign)?.[1] ?? '=';
  const value = valueOf(rest, column);
  return value === null ? null : { column: name, op, value };
}

/** What a person typed as the value of a column; null where it is none. */
export function valueOf(text: string, column: Column): boolean | number | string | null {
  if (column.type === 'boolean') return /^(true|yes|1)$/i.test(text.trim());
  if (column.type === 'number' || column.type === 'integer') {
    const typed = text.trim();
    const value = typed.endsWith('%') ? Number(typed.slice(0, -1)) / 100 : Number(typed);
    return typed !== '' && Number.isFinite(value) ? value : null;
  }
  return text === '' ? null : text;
}

/** A condition in words. */
export function describe({ column, op, value }: Condition): string {
  const name = title(column);
  if (op === 'is_null' || op === 'not_null') return `${name} ${WORDS[op]}`;
  if (typeof value === 'boolean') return value === (op === '=') ? name : `not ${name.toLowerCase()}`;
  const shown = typeof value === 'number' ? (column === 'density' || column.endsWith('_share') ? percent(value) : number(value)) : isToken(column) ? `“${chip(String(value))}”` : op === 'matches' ? `/${value}/` : `“${Array.isArray(value) ? value.join(', ') : value}”`;
  return `${name} ${WORDS[op]} ${shown}`;
}
