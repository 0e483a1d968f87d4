// Rows of a long table by pages: what is on the screen is asked for, what was asked for is kept.

export type Cell = boolean | number | string | string[] | null;
export type Row = Record<string, Cell>;

interface Page {
  total: number;
  columns: Record<string, Cell[]>;
}

export type LoadPage = (offset: number, limit: number, signal: AbortSignal) => Promise<Page>;

export const PAGE = 100;
const KEPT = 60;

export class Rows {
  total: number | null = $state(null);
  error: unknown = $state.raw(null);
  /** Raised with every page that comes in, so that rows drawn without it are drawn again. */
  version = $state(0);

  readonly #load: LoadPage;
  readonly #pages = new Map<number, Record<string, Cell[]>>();
  readonly #asked = new Map<number, AbortController>();

  constructor(load: LoadPage) {
    this.#load = load;
  }

  row(index: number): Row | null {
    const columns = this.#pages.get(Math.floor(index / PAGE));
    if (!columns) return null;
    const at = index % PAGE;
    const row: Row = {};
    for (const [name, values] of Object.entries(columns)) row[name] = values[at] ?? null;
    return row;
  }

  /** Ask for what a window shows, and give up what it no longer does. */
  want(first: number, last: number): void {
    const from = Math.floor(Math.max(0, first) / PAGE);
    const to = Math.floor(Math.max(0, last - 1) / PAGE);
    for (const [page, abort] of this.#asked) if (page < from - 1 || page > to + 1) abort.abort();
    for (let page = from; page <= to; page += 1) if (!this.#pages.has(page) && !this.#asked.has(page)) void this.#ask(page);
  }

  stop(): void {
    for (const abort of this.#asked.values()) abort.abort();
  }

  retry(): void {
    this.error = null;
    this.version += 1;
  }

  async #ask(page: number): Promise<void> {
    const abort = new AbortController();
    this.#asked.set(page, abort);
    try {
      const answer = await this.#load(page * PAGE, PAGE, abort.signal);
      this.#pages.set(page, answer.columns);
      if (this.#pages.size > KEPT) this.#pages.delete(this.#pages.keys().next().value as number);
      this.total = answer.total;
      this.error = null;
      this.version += 1;
    } catch (error) {
      if (!abort.signal.aborted) this.error = error;
    } finally {
      if (this.#asked.get(page) === abort) this.#asked.delete(page);
    }
  }
}
