// The way through a table one feature at a time: the neighbors of where one stands, asked for before they are needed.

import { getPlace, prefetch, type TableQuery } from '$/api/features';

const AHEAD = 3;

export class Walk {
  /** Features around, in the table's order, and the place of the first of them in it. */
  #list: number[] = $state.raw([]);
  #first: number | null = $state(null);
  #total = $state(0);
  #key = '';

  /** Where a feature stands, from 0; null where the filter leaves it out or nothing is known yet. */
  index(feature: number): number | null {
    const at = this.#list.indexOf(feature);
    return at < 0 || this.#first === null ? null : this.#first + at;
  }

  get total(): number {
    return this.#total;
  }

  next(feature: number): number | null {
    const at = this.#list.indexOf(feature);
    return this.#list[at + 1] ?? null;
  }

  previous(feature: number): number | null {
    const at = this.#list.indexOf(feature);
    return at > 0 ? (this.#list[at - 1] ?? null) : null;
  }

  /** Whether an end of what is known is near, and is no end of the table. */
  #isNearUnknown(at: number): boolean {
    if (this.#first === null) return false;
    const left = at < AHEAD && this.#first > 0;
    const right = this.#list.length - 1 - at < AHEAD && this.#first + this.#list.length < this.#total;
    return left || right;
  }

  /** Stand at a feature: learn who is near, and read them ahead. */
  async at(dict: string, feature: number, query: TableQuery, signal: AbortSignal): Promise<void> {
    const key = JSON.stringify([dict, query]);
    const at = key === this.#key ? this.#list.indexOf(feature) : -1;
    if (at < 0 || this.#isNearUnknown(at)) {
      const place = await getPlace(dict, feature, query, signal);
      if (signal.aborted) return;
      this.#key = key;
      this.#total = place.total;
      if (place.index === null) {
        this.#list = [feature, ...place.after];
        this.#first = null;
      } else {
        this.#list = [...place.before.toReversed(), feature, ...place.after];
        this.#first = place.index - place.before.length;
      }
    }
    const here = this.#list.indexOf(feature);
    const around = [1, -1, 2, -2, 3, -3].map((step) => this.#list[here + step]).filter((one) => one !== undefined);
    prefetch(dict, around);
  }
}
