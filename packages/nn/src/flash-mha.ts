import {
  Attention,
  checkOptions,
  refuse,
  show,
  type AttentionOptions,
  type DropoutOptions,
  type Tensor,
} from "@fa/core";
import { checkOffset, checkSeed, resolveConfig, type FlashMHAConfig, type ResolvedConfig } from "./config.ts";
import {
  entriesOf,
  mapParameters,
  parametersOf,
  parameterShapes,
  uniformParameters,
  type MHAParameters,
  type ParameterName,
} from "./parameters.ts";
import { SavedForward, tensorsOf } from "./saved.ts";
import { readParameters, writeParameters, type LoadOptions, type StoreOptions } from "./stored.ts";
import { checkTensor, scoped, view, type Own } from "./tensors.ts";

export interface TrainingOptions {
  /** Key of this step's dropout mask. Default: the module's seed. */
  readonly seed?: number | bigint | undefined;
  /**
   * Picks one of the masks of a seed, unsigned 32-bit. Default: 0 with a seed of its own, and without one the number of
   * training forwards before, so that no two steps drop the same.
   */
  readonly offset?: number | undefined;
}

export interface TrainingResult {
  /** [B, S, E] */
  readonly out: Tensor;
  /** For one `backward`; dispose it if there will be none. */
  readonly saved: SavedForward;
}

export interface BackwardResult {
  /** Gradient of x, [B, S, E]. */
  readonly dx: Tensor;
  /** The gradient of each parameter, of its shape and dtype. */
  readonly gradients: MHAParameters;
}

/**
 * Multi-head self-attention: one fused projection of x to q, k and v, attention, and the output projection. The weights and
 * all memory are on the back end of the `Attention` it is made with.
 *
 * Shapes: B batch, S sequence length, E = embedDim, H = numHeads, Hkv = numHeadsKv, D = E / H.
 * @see flash-attn, `flash_attn.modules.mha.MHA`, and PyTorch, `torch.nn.MultiheadAttention`, whose weights it loads
 * @example
 * const mha = new FlashMHA(fa, { embedDim: 512, numHeads: 8 });
 * const out = await mha.forward(fa.tensor(x, { shape: [8, 512, 512] }));
 */
export class FlashMHA {
  /** The configuration with its defaults filled in. */
  readonly config: ResolvedConfig;
  readonly #fa: Attention;
  #parameters: MHAParameters;
  #disposed = false;
  #trainingForwards = 0;

  /**
   * Weights and biases start uniform in +-1 / sqrt(E), as torch.nn.Linear's do, drawn by `seed`.
   * @param makeParameters @internal
   * @throws FaError FA_OPTION, FA_OUT_OF_MEMORY, FA_DISPOSED
   */
  constructor(
    fa: Attention,
    config: FlashMHAConfig,
    makeParameters: (fa: Attention, config: ResolvedConfig) => MHAParameters = uniformParameters,
  ) {
    if (!(fa instanceof Attention)) {
      refuse("FA_OPTION", {
        where: "FlashMHA(fa)",
        rule: "fa must be an Attention",
        got: show(fa),
        fix: "Make it with await createAttention({ backends }).",
      });
    }
    this.#fa = fa;
    this.config = resolveConfig(config);
    this.#parameters = makeParameters(fa, this.config);
  }

  /**
   * A module with the weights of a safetensors file.
   * @throws FaError as the constructor and `loadSafetensors`
   */
  static fromSafetensors(
    fa: Attention,
    bytes: Uint8Array,
    config: FlashMHAConfig,
    options: LoadOptions = {},
  ): FlashMHA {
    return new FlashMHA(fa, config, (instance, resolved) =>
      readParameters("FlashMHA.fromSafetensors", instance, resolved, bytes, options),
    );
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Without dropout, keeping nothing for backward.
   * @param x [B, S, E], of the module's dtype
   * @returns [B, S, E]
   * @throws FaError FA_SHAPE, FA_DTYPE, FA_TENSOR, FA_DISPOSED, FA_UNSUPPORTED, FA_OUT_OF_MEMORY
   */
  async forward(x: Tensor): Promise<Tensor> {
    this.#checkCall("FlashMHA.forward", x);
    return scoped(async (own) => {
      const { attended, parameters } = await this.#attend(own, x, {});
      return this.#project(own, attended, parameters);
    });
  }

  /**
   * With dropout, keeping what `backward` needs. x and the module's weights may be disposed or replaced before it.
   * @param x [B, S, E], of the module's dtype
   * @throws FaError as `forward`, and FA_OPTION
   */
  async forwardTraining(x: Tensor, options: TrainingOptions = {}): Promise<TrainingResult> {
    const where = "FlashMHA.forwardTraining";
    this.#checkCall(where, x);
    const dropout = this.#dropout(where, options);
    return scoped(async (own) => {
      const kept = await this.#attend(own, x, { dropout, returnLse: true });
      const out = await this.#project(own, kept.attended, kept.parameters);
      const { q, k, v, attended, lse, parameters } = kept;
      const tensors = {
        x: view(kept.x),
        q: view(q),
        k: view(k),
        v: view(v),
        attended: view(attended),
        lse: view(lse!),
      };
      const saved = new SavedForward(this, { tensors, parameters: mapParameters(parameters, view), dropout });
      return { out, saved };
    });
  }

  /**
   * Gradients of one training forward, with the weights that it had. Uses `saved` up, even when it fails on the device;
   * wrong arguments leave it as it was.
   * @param saved from `forwardTraining` of this module
   * @param dout [B, S, E]: the gradient of out
   * @throws FaError as `forward`; FA_DISPOSED if `saved` was used or disposed, FA_TENSOR if it is another module's
   */
  async backward(saved: SavedForward, dout: Tensor): Promise<BackwardResult> {
    const where = "FlashMHA.backward";
    this.#checkOpen(where);
    SavedForward.check(where, saved, this);
    checkTensor(where, "dout", dout, this.#expect(saved.shape));
    const activations = SavedForward.take(saved);
    return scoped(async (own) => {
      tensorsOf(activations).forEach(own);
      const { tensors, parameters, dropout } = activations;
      const { x, q, k, v, attended, lse } = tensors;

      const output = await this.#fa.linearBackward({
        x: own(attended.reshape(x.shape)),
        weight: parameters["out_proj.weight"],
        dy: dout,
      });
      Object.values(output).forEach(own);

      const heads = await this.#fa.attentionBackward(
        { q, k, v, out: attended, lse, dout: own(output.dx.reshape(attended.shape)) },
        this.#attentionOptions({ dropout }),
      );
      const [B, S] = x.shape as [number, number];
      const dy = [heads.dq, heads.dk, heads.dv]
        .map(own)
        .map((gradient, part) => own(gradient.reshape([B, S, this.#qkvDims()[part]])));

      const input = await this.#fa.linearBackward({ x, weight: parameters["Wqkv.weight"], dy });
      Object.values(input).forEach(own);

      const gradients: Record<ParameterName, Tensor> = {
        "Wqkv.weight": input.dweight,
        "Wqkv.bias": input.dbias,
        "out_proj.weight": output.dweight,
        "out_proj.bias": output.dbias,
      };
      return {
        dx: view(input.dx),
        gradients: parametersOf(parameterShapes(this.config).map(([name]) => [name, view(gradients[name])])),
      };
    });
  }

  /**
   * The weights by flash-attn's names. They stay the module's: do not dispose of them; loading others does.
   * @throws FaError FA_DISPOSED
   */
  parameters(): MHAParameters {
    this.#checkOpen("FlashMHA.parameters");
    return this.#parameters;
  }

  /**
   * Replaces the weights that are named by these tensors, of the same shape and dtype. The module keeps views of its own, so
   * the caller's may be disposed.
   * @throws FaError FA_OPTION for an unknown name, FA_SHAPE, FA_DTYPE, FA_TENSOR, FA_DISPOSED; the old weights then stay
   */
  setParameters(parameters: Partial<MHAParameters>): void {
    const where = "FlashMHA.setParameters";
    this.#checkOpen(where);
    const shapes = parameterShapes(this.config);
    const names = shapes.map(([name]) => name);
    checkOptions(where, parameters, names);
    for (const [name, shape] of shapes) {
      if (parameters[name] !== undefined) checkTensor(where, name, parameters[name], this.#expect(shape));
    }
    this.#replace(parametersOf(names.map((name) => [name, view(parameters[name] ?? this.#parameters[name]!)])));
  }

  /**
   * Replaces all weights by those of a safetensors file, named as flash-attn names them (`Wqkv.weight`, `Wqkv.bias`,
   * `out_proj.weight`, `out_proj.bias`) or as nn.MultiheadAttention does (`in_proj_weight`, `in_proj_bias`), and converted
   * to the module's dtype.
   * @throws FaError FA_TENSOR for a missing or unexpected name or a damaged file, FA_SHAPE, FA_DTYPE, FA_UNSUPPORTED for
   * separate q, k and v projections, FA_OPTION, FA_OUT_OF_MEMORY, FA_DISPOSED; the old weights then stay
   */
  loadSafetensors(bytes: Uint8Array, options: LoadOptions = {}): void {
    const where = "FlashMHA.loadSafetensors";
    this.#checkOpen(where);
    this.#replace(readParameters(where, this.#fa, this.config, bytes, options));
  }

  /**
   * The weights as a safetensors file, in the module's dtype.
   * @throws FaError FA_OPTION, FA_DISPOSED
   */
  async toSafetensors(options: StoreOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
    this.#checkOpen("FlashMHA.toSafetensors");
    return writeParameters(this.config, this.#parameters, options);
  }

  /** Frees the weights. Calling it again does nothing; what `forwardTraining` saved is disposed on its own. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    disposeOf(this.#parameters);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Projects x and attends. The weights are held by views, so that loading others or disposing of the module meanwhile
   * changes nothing for a call under way.
   */
  async #attend(own: Own, x: Tensor, options: AttentionOptions) {
    const held = own(view(x));
    const parameters = mapParameters(this.#parameters, (tensor) => own(view(tensor)));
    const [B, S] = x.shape as [number, number];
    const { numHeads: H, numHeadsKv: Hkv, headDim: D } = this.config;
    const heads = [H, Hkv, Hkv];

    // [B, S, heads D] each, and the same memory as [B, S, heads, D]
    const projected = await this.#fa.linearSplit(held, parameters["Wqkv.weight"], this.#qkvDims(), {
      bias: parameters["Wqkv.bias"],
    });
    const [q, k, v] = projected.map(own).map((y, part) => own(y.reshape([B, S, heads[part], D]))) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const { out, lse } = await this.#fa.attention(q, k, v, this.#attentionOptions(options));
    return { x: held, q, k, v, attended: own(out), lse: lse && own(lse), parameters };
  }

  /** The output projection of what attention gave, [B, S, H, D] to [B, S, E]. */
  #project(own: Own, attended: Tensor, parameters: MHAParameters): Promise<Tensor> {
    const [B, S] = attended.shape as [number, number];
    return this.#fa.linear(own(attended.reshape([B, S, this.config.embedDim])), parameters["out_proj.weight"], {
      bias: parameters["out_proj.bias"],
    });
  }

  /** Columns of q, k and v in the fused projection. */
  #qkvDims(): [number, number, number] {
    const { embedDim, numHeadsKv, headDim } = this.config;
    return [embedDim, numHeadsKv * headDim, numHeadsKv * headDim];
  }

  #attentionOptions(options: AttentionOptions): AttentionOptions {
    return { ...options, layout: "bshd", causal: this.config.causal };
  }

  #dropout(where: string, options: TrainingOptions): DropoutOptions {
    checkOptions(where, options, ["seed", "offset"]);
    const { seed = this.config.seed } = options;
    const { offset = options.seed === undefined ? this.#trainingForwards % 2 ** 32 : 0 } = options;
    checkSeed(where, seed);
    checkOffset(where, offset);
    this.#trainingForwards++;
    return { p: this.config.dropout, seed, offset };
  }

  #replace(parameters: MHAParameters): void {
    const old = this.#parameters;
    this.#parameters = parameters;
    disposeOf(old);
  }

  #expect(shape: readonly (number | string)[]) {
    return { sibling: this.#parameters["Wqkv.weight"], shape, dtype: this.config.dtype };
  }

  #checkCall(where: string, x: Tensor): void {
    this.#checkOpen(where);
    checkTensor(where, "x", x, this.#expect(["B", "S", this.config.embedDim]));
  }

  #checkOpen(where: string): void {
    if (this.#disposed || this.#fa.disposed) {
      refuse("FA_DISPOSED", {
        where,
        rule: "the module and its instance must not be disposed",
        got: this.#disposed ? "a disposed FlashMHA" : "a disposed Attention",
        fix: "Dispose them after their last use.",
      });
    }
  }
}

function disposeOf(parameters: MHAParameters): void {
  for (const [, tensor] of entriesOf(parameters)) tensor.dispose();
}
