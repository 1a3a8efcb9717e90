import { refuse, show, type DropoutOptions, type Tensor } from "@fa/core";
import { entriesOf, type MHAParameters } from "./parameters.ts";

/** What backward needs of one training forward: views of its own, so neither inputs nor weights need be kept for it. */
export interface Activations {
  readonly tensors: {
    /** [B, S, E] */
    readonly x: Tensor;
    /** [B, S, H, D] */
    readonly q: Tensor;
    /** [B, S, Hkv, D] */
    readonly k: Tensor;
    /** [B, S, Hkv, D] */
    readonly v: Tensor;
    /** [B, S, H, D]: the result of attention, before the output projection. */
    readonly attended: Tensor;
    /** [B, H, S], float32. */
    readonly lse: Tensor;
  };
  /** The weights of the forward, which may have been replaced since. */
  readonly parameters: MHAParameters;
  readonly dropout: DropoutOptions;
}

/** One training forward's activations, for one `backward`. Holds device memory until then, or until it is disposed. */
export class SavedForward {
  /** Shape [B, S, E] of x, out, dout and dx. */
  readonly shape: readonly number[];
  readonly #module: object;
  #activations: Activations | undefined;
  #used = false;

  /** @internal Comes from `forwardTraining`. */
  constructor(module: object, activations: Activations) {
    this.#module = module;
    this.#activations = activations;
    this.shape = activations.tensors.x.shape;
  }

  /** True once `backward` has used it or it was disposed. */
  get disposed(): boolean {
    return this.#activations === undefined;
  }

  /** Frees what was kept for backward. Calling it again does nothing. */
  dispose(): void {
    const activations = this.#activations;
    this.#activations = undefined;
    if (activations) for (const tensor of tensorsOf(activations)) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Refuses what is not the live result of a forward of this module.
   * @internal
   */
  static check(where: string, saved: unknown, module: object): asserts saved is SavedForward {
    const argument = `${where}(saved)`;
    if (!(saved instanceof SavedForward) || saved.#module !== module) {
      refuse("FA_TENSOR", {
        where: argument,
        rule: "saved must come from this module's forwardTraining",
        got: saved instanceof SavedForward ? "one of another module" : show(saved),
        fix: "Pass the saved that forwardTraining returned beside out.",
      });
    }
    if (saved.disposed) {
      refuse("FA_DISPOSED", {
        where: argument,
        rule: "saved must be used once, before it is disposed",
        got: saved.#used ? "one that backward has used" : "a disposed one",
        fix: "Call forwardTraining again for another backward.",
      });
    }
  }

  /**
   * Hands the activations over; whoever takes them disposes of `tensorsOf` them.
   * @internal
   */
  static take(saved: SavedForward): Activations {
    const activations = saved.#activations!;
    saved.#activations = undefined;
    saved.#used = true;
    return activations;
  }
}

/** Every tensor among activations. */
export function tensorsOf({ tensors, parameters }: Activations): Tensor[] {
  return [...Object.values(tensors), ...entriesOf(parameters).map(([, tensor]) => tensor)];
}
