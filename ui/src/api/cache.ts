// Answers that do not change, kept for as long as they are among the last ones used. Features and contexts come from
// immutable bundles, so that what is prefetched is never stale. What is dropped is asked for anew, and an answer that was
// on its way then is not kept.

export class Cache<T> {
  readonly #kept = new Map<string, T>();
  readonly #asked = new Map<string, Promise<T>>();
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  /** What is there at once, or undefined. */
  peek(key: string): T | undefined {
    return this.#kept.get(key);
  }

  get(key: string, load: () => Promise<T>): Promise<T> {
    const kept = this.#kept.get(key);
    if (kept !== undefined) {
      this.#keep(key, kept);
      return Promise.resolve(kept);
    }
    const asked = this.#asked.get(key);
    if (asked) return asked;
    const promise = load()
      .then((value) => {
        if (this.#asked.get(key) === promise) this.#keep(key, value);
        return value;
      })
      .finally(() => {
        if (this.#asked.get(key) === promise) this.#asked.delete(key);
      });
    this.#asked.set(key, promise);
    return promise;
  }

  drop(key: string): void {
    this.#kept.delete(key);
    this.#asked.delete(key);
  }

  clear(): void {
    this.#kept.clear();
    this.#asked.clear();
  }

  #keep(key: string, value: T): void {
    this.#kept.delete(key);
    this.#kept.set(key, value);
    if (this.#kept.size > this.#most) this.#kept.delete(this.#kept.keys().next().value as string);
  }
}
