// The way through a table one feature at a time: the neighbors of where one stands, asked for before they are needed.

import { SvelteMap } from 'svelte/reactivity';
import { getPlace, prefetch, type TableQuery } from '$/api/features';

const AHEAD = 3;

export class Walk {
  /** Features by their place in the table, as far as they are known, and back. */
  readonly #features = new SvelteMap<number, number>();
  readonly #places = new SvelteMap<number, number>();
  /** What follows where the table leaves the feature out: its first rows. */
  #outside: number[] | null = $state.raw(null);
  #total = $state(0);
  #key = '';
  #asked: Promise<void> | null = null;

  /** Where a feature stands, from 0; null where the filter leaves it out or nothing is known yet. */
  index(feature: number): number | null {
    return this.#places.get(feature) ?? null;
  }

  get total(): number {
    return this.#total;
  }

  next(feature: number): number | null {
    const at = this.#places.get(feature);
    return at === undefined ? (this.#outside?.[0] ?? null) : (this.#features.get(at + 1) ?? null);
  }

  previous(feature: number): number | null {
    const at = this.#places.get(feature);
    return at === undefined ? null : (this.#features.get(at - 1) ?? null);
  }

  /** Whether it is known who stands a step on or back: a feature, or nobody where the table ends. */
  knows(feature: number, step: 1 | -1): boolean {
    const at = this.#places.get(feature);
    if (at === undefined) return this.#outside !== null;
    return this.#features.has(at + step) || at + step < 0 || at + step >= this.#total;
  }

  /** Stand at a feature: learn who is near, and read them ahead. One question at a time, however fast one walks. */
  async at(dict: string, feature: number, query: TableQuery): Promise<void> {
    const key = JSON.stringify([dict, query]);
    if (key !== this.#key) {
      this.#key = key;
      this.#features.clear();
      this.#places.clear();
      this.#outside = null;
      this.#asked = null;
    }
    this.#readAhead(dict, feature);
    while (this.#key === key && this.#isNearUnknown(feature)) {
      if (this.#asked) {
        await this.#asked;
        continue;
      }
      this.#asked = this.#ask(dict, feature, query, key);
      try {
        await this.#asked;
      } finally {
        this.#asked = null;
      }
      break;
    }
    if (this.#key === key) this.#readAhead(dict, feature);
  }

  async #ask(dict: string, feature: number, query: TableQuery, key: string): Promise<void> {
    const place = await getPlace(dict, feature, query);
    if (this.#key !== key) return;
    this.#total = place.total;
    if (place.index === null) {
      this.#outside = place.after;
      return;
    }
    const first = place.index - place.before.length;
    for (const [i, one] of [...place.before.toReversed(), feature, ...place.after].entries()) {
      this.#features.set(first + i, one);
      this.#places.set(one, first + i);
    }
  }

  /** Whether an end of what is known is near, and is no end of the table. */
  #isNearUnknown(feature: number): boolean {
    const at = this.#places.get(feature);
    if (at === undefined) return true;
    const left = Math.max(0, at - AHEAD);
    const right = Math.min(this.#total - 1, at + AHEAD);
    return !this.#features.has(left) || !this.#features.has(right);
  }

  #readAhead(dict: string, feature: number): void {
    const at = this.#places.get(feature);
    if (at === undefined) return;
    const around = [1, -1, 2, -2, 3, -3].map((step) => this.#features.get(at + step)).filter((one) => one !== undefined);
    prefetch(dict, around);
  }
}
