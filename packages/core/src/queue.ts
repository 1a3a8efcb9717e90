/** Does one thing at a time, in the order in which they were given: for back ends whose work takes several turns. */
export class Queue {
  readonly #waiting: (() => Promise<() => void>)[] = [];
  #busy = false;

  /** Whether what is done now is in order without a place in the queue. */
  get idle(): boolean {
    return !this.#busy;
  }

  add<T>(work: () => T | Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(async () => {
        try {
          const value = await work();
          return () => resolve(value);
        } catch (error) {
          return () => reject(error);
        }
      });
      if (!this.#busy) void this.#go();
    });
  }

  async #go(): Promise<void> {
    this.#busy = true;
    for (let next = this.#waiting.shift(); next; next = this.#waiting.shift()) {
      const settle = await next();
      // Before the caller hears of the last piece of work: what it does then finds the queue idle.
      if (this.#waiting.length === 0) this.#busy = false;
      settle();
      if (!this.#busy) return;
    }
  }
}
