import { checkOptions, decode, encode, nearest, refuse, roundTo, show, type Attention } from "@fa/core";
import { readSafetensors, writeSafetensors, type StoredTensor } from "@fa/core/safetensors";
import type { ModuleDType, ResolvedConfig } from "./config.ts";
import { makeParameters, parameterShapes, type MHAParameters, type ParameterName } from "./parameters.ts";

/** Whose names a file uses: flash-attn's `MHA`, or those of PyTorch's `nn.MultiheadAttention`. */
export type Naming = "flash-attn" | "pytorch";

export interface LoadOptions {
  /** Where in the file the module's names begin, such as "encoder.layers.0.self_attn"; a final "." is understood. */
  readonly prefix?: string | undefined;
}

export interface StoreOptions extends LoadOptions {
  /** Default "flash-attn". */
  readonly naming?: Naming | undefined;
}

const NAMES: Readonly<Record<Naming, Readonly<Record<ParameterName, string>>>> = {
  "flash-attn": {
    "Wqkv.weight": "Wqkv.weight",
    "Wqkv.bias": "Wqkv.bias",
    "out_proj.weight": "out_proj.weight",
    "out_proj.bias": "out_proj.bias",
  },
  pytorch: {
    "Wqkv.weight": "in_proj_weight",
    "Wqkv.bias": "in_proj_bias",
    "out_proj.weight": "out_proj.weight",
    "out_proj.bias": "out_proj.bias",
  },
};

/** What nn.MultiheadAttention has instead of in_proj_weight when its keys or values have a width of their own. */
const SEPARATE = ["q_proj_weight", "k_proj_weight", "v_proj_weight"];

/**
 * A module's parameters from a safetensors file in either naming, converted to the module's dtype. The names under the prefix
 * must be exactly the module's.
 * @throws FaError FA_TENSOR for a missing or unexpected name or a damaged file, FA_SHAPE, FA_DTYPE, FA_UNSUPPORTED,
 * FA_OPTION, FA_OUT_OF_MEMORY
 */
export function readParameters(
  where: string,
  fa: Attention,
  config: ResolvedConfig,
  file: Uint8Array,
  options: LoadOptions,
): MHAParameters {
  checkOptions(where, options, ["prefix"]);
  const prefix = checkPrefix(where, options.prefix);
  const namesInFile: string[] = [];
  const stored = readSafetensors(file, (name) => {
    namesInFile.push(name);
    return name.startsWith(prefix);
  });
  const found = checkStored(where, config, stored, prefix, namesInFile);
  return makeParameters(fa, config, (name) => converted(where, prefix + name, found[name]!, config.dtype));
}

/** The stored tensors by flash-attn's names, all there and all of the right shape. */
function checkStored(
  where: string,
  config: ResolvedConfig,
  stored: ReadonlyMap<string, StoredTensor>,
  prefix: string,
  namesInFile: readonly string[],
): Partial<Record<ParameterName, StoredTensor>> {
  const under = [...stored.keys()].map((name) => name.slice(prefix.length));
  const separate = under.find((name) => SEPARATE.includes(name));
  if (separate !== undefined) {
    refuse("FA_UNSUPPORTED", {
      where: `${where}(${prefix}${separate})`,
      rule: "q, k and v must be projected by one in_proj_weight",
      got: "separate weights, which nn.MultiheadAttention has when kdim or vdim differ from embed_dim",
      fix: "FlashMHA is self-attention. If all have embed_dim columns, store their rows one after another as in_proj_weight.",
    });
  }
  const naming = NAMES[under.some((name) => name.startsWith("in_proj")) ? "pytorch" : "flash-attn"];
  const shapes = parameterShapes(config);
  const expected = shapes.map(([name]) => prefix + naming[name]);

  const found: Partial<Record<ParameterName, StoredTensor>> = {};
  for (const [name, shape] of shapes) {
    const storedName = prefix + naming[name];
    const tensor = stored.get(storedName);
    if (!tensor) {
      const near = nearest(
        storedName,
        namesInFile.filter((other) => !expected.includes(other)),
      );
      refuse("FA_TENSOR", {
        where: `${where}(${storedName})`,
        rule: `the file must hold ${storedName} ${show(shape)}`,
        got: `no such name${near === undefined ? "" : `, the nearest is ${show(near)}`}`,
        fix: name.endsWith(".bias")
          ? "Make the module with bias: false if the file is right."
          : "Check the prefix: it is what comes before the module's own names.",
      });
    }
    if (tensor.shape.length !== shape.length || !shape.every((size, axis) => size === tensor.shape[axis])) {
      refuse("FA_SHAPE", {
        where: `${where}(${storedName})`,
        rule: `shape must be ${show(shape)} for ${describe(config)}`,
        got: show(tensor.shape),
        fix: "Make the module with the numbers that the file was written with.",
      });
    }
    found[name] = tensor;
  }
  const unexpected = [...stored.keys()].find((name) => !expected.includes(name));
  if (unexpected !== undefined) {
    const near = nearest(unexpected, expected);
    refuse("FA_TENSOR", {
      where: `${where}(${unexpected})`,
      rule: `the names${prefix && ` under ${show(prefix)}`} must be ${expected.join(", ")}${config.bias ? "" : " (bias: false)"}`,
      got: `${show(unexpected)} ${show(stored.get(unexpected)!.shape)} besides${near === undefined ? "" : `, nearest to ${show(near)}`}`,
      fix: "Weights that are left unread would give other numbers than the file's model: remove it, or make the module that has it.",
    });
  }
  return found;
}

function describe({ embedDim, numHeads, numHeadsKv }: ResolvedConfig): string {
  return `embedDim ${embedDim}, numHeads ${numHeads}, numHeadsKv ${numHeadsKv}`;
}

function converted(where: string, name: string, { dtype, bytes }: StoredTensor, to: ModuleDType) {
  if (dtype === to) return bytes;
  if (dtype === "int32" || dtype === "bool") {
    refuse("FA_DTYPE", {
      where: `${where}(${name})`,
      rule: "weights must be of a float dtype",
      got: dtype,
      fix: "Store the weights that the quantised ones stand for.",
    });
  }
  const values = decode(dtype, bytes);
  const largest = values.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);
  if (!Number.isFinite(roundTo(to, largest))) {
    refuse("FA_DTYPE", {
      where: `${where}(${name})`,
      rule: `weights must be within the range of the module's dtype, ${to}`,
      got: `${largest}`,
      fix: `Make the module with dtype ${show(dtype === "float16" ? "float32" : dtype)}.`,
    });
  }
  return encode(to, values);
}

/**
 * A module's parameters as a safetensors file, in their own dtype.
 * @throws FaError FA_OPTION, also for grouped heads under PyTorch's names: nn.MultiheadAttention has none
 */
export async function writeParameters(
  config: ResolvedConfig,
  parameters: MHAParameters,
  options: StoreOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  const where = "FlashMHA.toSafetensors";
  checkOptions(where, options, ["naming", "prefix"]);
  const { naming = "flash-attn" } = options;
  const prefix = checkPrefix(where, options.prefix);
  if (!Object.hasOwn(NAMES, naming)) {
    refuse("FA_OPTION", {
      where: `${where}(naming)`,
      rule: `naming must be "flash-attn" or "pytorch"`,
      got: show(naming),
      fix: "Leave it out for flash-attn's names.",
    });
  }
  if (naming === "pytorch" && config.numHeadsKv !== config.numHeads) {
    refuse("FA_OPTION", {
      where: `${where}(naming)`,
      rule: "nn.MultiheadAttention has as many key/value heads as query heads",
      got: describe(config),
      fix: `Use naming: "flash-attn".`,
    });
  }
  const stored = parameterShapes(config).map(async ([name, shape]) => {
    const data = await parameters[name]!.data();
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    return [prefix + NAMES[naming][name], { dtype: config.dtype, shape, bytes }] as const;
  });
  return writeSafetensors(new Map(await Promise.all(stored)));
}

function checkPrefix(where: string, prefix: unknown = ""): string {
  if (typeof prefix !== "string") {
    refuse("FA_OPTION", {
      where: `${where}(prefix)`,
      rule: "prefix must be a string",
      got: show(prefix),
      fix: `Pass what comes before the module's own names, such as "encoder.layers.0.self_attn".`,
    });
  }
  return prefix === "" || prefix.endsWith(".") ? prefix : `${prefix}.`;
}
