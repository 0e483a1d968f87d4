// Questions while one types: the first is asked at once, and one at a time. A key that comes while one is under way is
// asked as soon as that is answered, or after a pause if it takes long.

/** Milliseconds after the last key. */
const PAUSE = 100;

export class Pace {
  readonly #ask: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(ask: () => void) {
    this.#ask = ask;
  }

  /** The text has changed. `busy`: whether a question is under way. */
  typed(busy: boolean): void {
    this.stop();
    if (busy) this.#timer = setTimeout(() => this.#go(), PAUSE);
    else this.#ask();
  }

  /** The question that was under way is answered. */
  answered(): void {
    if (this.#timer !== undefined) this.#go();
  }

  /** Ask no more. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #go(): void {
    this.stop();
    this.#ask();
  }
}
