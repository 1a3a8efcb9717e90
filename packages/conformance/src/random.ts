import { philox4x32 } from "@fa/core";
import type { Numbers } from "./subject.ts";

/** A stream of pseudo-random numbers from a name: the same on every machine, in every order of checks. */
export class Random {
  readonly #key: readonly [number, number];
  readonly #words: Uint32Array = new Uint32Array(4);
  #drawn = 0;

  constructor(name: string) {
    this.#key = [hash(name, 0x811c9dc5), hash(name, 0x1b873593)];
  }

  /** Uniform over the unsigned 32-bit integers. */
  word(): number {
    const lane = this.#drawn % 4;
    if (lane === 0) philox4x32([this.#drawn / 4, 0, 0, 0], this.#key, 7, this.#words);
    this.#drawn++;
    return this.#words[lane];
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return this.word() / 2 ** 32;
  }

  /** Roughly normal, a multiple of 1/32 below 4 in size: exact in every dtype but float8. */
  normal(): number {
    let sum = 0;
    for (let n = 0; n < 4; n++) sum += this.uniform();
    return Math.round((sum - 2) * 1.73 * 32) / 32;
  }

  integer(below: number): number {
    return Math.floor(this.uniform() * below);
  }

  numbers(shape: readonly number[], draw: () => number = () => this.normal()): Numbers {
    const elements = shape.reduce((product, size) => product * size, 1);
    return { shape, values: Float64Array.from({ length: elements }, draw) };
  }

  /** A bool mask in which an element is true with probability `density`. */
  mask(shape: readonly number[], density: number): Numbers {
    return { ...this.numbers(shape, () => (this.uniform() < density ? 1 : 0)), dtype: "bool" };
  }

  permutation(length: number): number[] {
    const order = Array.from({ length }, (_, n) => n);
    for (let n = length - 1; n > 0; n--) {
      const other = this.integer(n + 1);
      [order[n], order[other]] = [order[other], order[n]];
    }
    return order;
  }
}

/** FNV-1a over UTF-16 units. */
function hash(text: string, basis: number): number {
  let value = basis;
  for (let n = 0; n < text.length; n++) value = Math.imul(value ^ text.charCodeAt(n), 0x01000193) >>> 0;
  return value;
}
