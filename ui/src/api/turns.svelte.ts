// Changes that the server must make in the order they were asked for: each is sent when the one before was answered.
// What still waits when the page goes away is sent at once.

type Send<T> = (leaving: boolean) => Promise<T>;

class Turns {
  /** How many are sent or wait. */
  size = $state(0);
  #last: Promise<unknown> = Promise.resolve();
  #waiting = new Map<symbol, { of: string; now: (leaving: boolean) => void }>();

  constructor() {
    addEventListener('pagehide', () => this.#leave());
  }

  /** Send a change of a thing. `leaving`: those before may not have been answered yet. */
  next<T>(of: string, send: Send<T>): Promise<T> {
    this.size += 1;
    const turn = Symbol(of);
    const done = new Promise<T>((resolve, reject) => {
      const now = (leaving: boolean): void => {
        if (this.#waiting.delete(turn)) send(leaving).then(resolve, reject);
      };
      this.#waiting.set(turn, { of, now });
      void this.#last.then(() => now(false));
    }).finally(() => (this.size -= 1));
    this.#last = done.catch(() => undefined);
    return done;
  }

  /** Until all that was asked for so far is answered. */
  async idle(): Promise<void> {
    await this.#last;
  }

  /** Of several changes of one thing only the last is sent: they could arrive in another order. */
  #leave(): void {
    const last = new Map([...this.#waiting.values()].map((one) => [one.of, one]));
    for (const { now } of last.values()) now(true);
  }
}

export const turns = new Turns();
