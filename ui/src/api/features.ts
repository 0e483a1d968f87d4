// Features and their contexts, prefetched and kept: bundles do not change. Labels do, and are dropped by `forget`.

import { Cache } from './cache';
import { api, type Query } from './client';
import type { Condition, Contexts, Feature, FeaturePage, Neighbors, Place } from './types';

const KEPT = 64;
const features = new Cache<Feature>(KEPT);
const contexts = new Cache<Contexts>(KEPT);
const neighbors = new Cache<Neighbors>(KEPT);

function path(dict: string, feature: number): string {
  return `dictionaries/${encodeURIComponent(dict)}/features/${feature}`;
}

const key = (dict: string, feature: number, rest = ''): string => `${dict}/${feature}${rest}`;

export function getFeature(dict: string, feature: number): Promise<Feature> {
  return features.get(key(dict, feature), () => api.get<Feature>(path(dict, feature)));
}

export function getContexts(dict: string, feature: number): Promise<Contexts> {
  return contexts.get(key(dict, feature), () => api.get<Contexts>(`${path(dict, feature)}/contexts`));
}

export function getNeighbors(dict: string, feature: number, by: string): Promise<Neighbors> {
  return neighbors.get(key(dict, feature, `/${by}`), () => api.get<Neighbors>(`${path(dict, feature)}/neighbors`, { by }));
}

/** A feature with its contexts. */
export async function readFeature(dict: string, feature: number): Promise<{ feature: Feature; contexts: Contexts }> {
  const [known, read] = await Promise.all([getFeature(dict, feature), getContexts(dict, feature)]);
  return { feature: known, contexts: read };
}

/** What is there at once, so that the next feature shows in the frame its key was pressed in. */
export function peekFeature(dict: string, feature: number): { feature: Feature; contexts: Contexts } | null {
  const known = features.peek(key(dict, feature));
  const read = contexts.peek(key(dict, feature));
  return known && read ? { feature: known, contexts: read } : null;
}

let ahead: readonly (readonly [string, number])[] = [];
let reading = false;

/** Read features before they are asked for, the first first, one at a time: what is asked for does not wait for them. */
export function prefetch(dict: string, list: readonly number[]): void {
  ahead = list.filter((feature) => !peekFeature(dict, feature)).map((feature) => [dict, feature] as const);
  if (!reading) void readAhead();
}

async function readAhead(): Promise<void> {
  reading = true;
  for (let next = ahead[0]; next; next = ahead[0]) {
    ahead = ahead.slice(1);
    await readFeature(...next).catch(() => undefined);
  }
  reading = false;
}

/** After a change of labels, tags or bookmarks. */
export function forget(dict: string, feature: number): void {
  features.drop(key(dict, feature));
  neighbors.clear();
}

export interface TableQuery {
  filter: Condition[];
  sort: string;
}

export function tableQuery({ filter, sort }: TableQuery): Query {
  return { filter: filter.length ? JSON.stringify(filter) : null, sort: sort || null };
}

export function getPage(
  dict: string,
  query: TableQuery & { columns: string[]; offset: number; limit: number },
  signal?: AbortSignal,
): Promise<FeaturePage> {
  return api.get<FeaturePage>(
    `dictionaries/${encodeURIComponent(dict)}/features`,
    { ...tableQuery(query), columns: query.columns.join(','), offset: query.offset, limit: query.limit },
    signal,
  );
}

export function getPlace(dict: string, feature: number, query: TableQuery, signal?: AbortSignal): Promise<Place> {
  return api.get<Place>(
    `dictionaries/${encodeURIComponent(dict)}/features/place`,
    { ...tableQuery(query), feature },
    signal,
  );
}
