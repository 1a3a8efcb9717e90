import {
  countFlops,
  FaError,
  FLOAT_DTYPES,
  MAX_HEAD_DIM,
  rowStrides,
  SCORE_STEPS,
  step,
  type AttentionProblem,
  type Plan,
  type Tile,
} from "@fa/core";
import type { ShaderParams } from "../wgsl.ts";
import { dtypeCode } from "./dtypes.ts";
import { scoreSums } from "./forward.ts";
import { piecesOf, type Piece } from "./pieces.ts";
import { Words, type BufferWindow, type DeviceLimits, type Pass, type WebgpuRow } from "./row.ts";
import { scoreParams, scoreWords } from "./score.ts";

/** Rows and keys of the tile that a workgroup's registers hold; of a smaller one the rest stays unused. */
const TILE: Tile = { q: 64, kv: 64 };
/** Tiles are multiples of this: eight neighbouring keys share a draw of dropout. */
const TILE_STEP = 8;
/** Others whose P or dS goes through workgroup memory at a time, by how often 64 features the longer rows beside it have. */
const DEPTH_OF = { 1: 16, 2: 16, 3: 8, 4: 8 } as const;
/** Vectors of workgroup memory that staged features take: 2 x 64 rows of 4 quads and one left free. */
const STAGED_VECTORS = 2 * 64 * 5;

/** Words of a query row's terms: lse, delta, flags. */
const TERMS = 3;
/** The parts of the workspace begin at multiples of it, in bytes. */
const ALIGNMENT = 256;

interface Workspace {
  /** Where sums for dsinks and terms of rows begin, in bytes; slopes of heads are before them. */
  readonly sums: number;
  readonly terms: number;
  readonly bytes: number;
}

function workspaceOf({ B, H, Sq, program }: AttentionProblem): Workspace {
  const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  const sums = step(program, "alibi") ? align(B * H * 8) : 0;
  const terms = sums + (step(program, "sinks") ? align(H * 4) : 0);
  return { sums, terms, bytes: terms + align(Math.max(1, B * H * Sq) * TERMS * 4) };
}

/** How a shader is unrolled: sums along D and Dv that a thread holds, in quads, and what that asks of workgroup memory. */
function unrolled({ D, Dv }: AttentionProblem) {
  const [OX, OY] = [Math.ceil(D / 64), Math.ceil(Dv / 64)];
  const most = Math.max(OX, OY) as keyof typeof DEPTH_OF;
  const DEPTH = DEPTH_OF[most];
  return { OX, OY, DEPTH, SMEM: Math.max(STAGED_VECTORS, 16 * DEPTH * (1 + most)) };
}

/** Makes the passes of one piece. */
class PieceOfBackward {
  readonly #problem: AttentionProblem;
  readonly #piece: Piece;
  readonly #workspace: Workspace;
  readonly #tile: Tile;
  readonly #batches: number;
  readonly #heads: number;

  constructor(problem: AttentionProblem, piece: Piece, tile: Tile) {
    this.#problem = problem;
    this.#piece = piece;
    this.#workspace = workspaceOf(problem);
    const step8 = (size: number): number => Math.ceil(size / TILE_STEP) * TILE_STEP;
    this.#tile = { q: step8(tile.q), kv: step8(tile.kv) };
    this.#batches = piece.batch.to - piece.batch.from;
    this.#heads = piece.head.to - piece.head.from;
  }

  get #group(): number {
    return this.#problem.H / this.#problem.Hkv;
  }

  /** Bytes of the workspace that the piece sees. */
  get workspaceBytes(): number {
    const rows = this.#batches * this.#heads * this.#group * this.#problem.Sq;
    return this.#workspace.terms + Math.max(1, rows) * TERMS * 4;
  }

  passes(): Pass[] {
    const { program } = this.#problem;
    const bias = step(program, "bias") ? ["bias"] : [];
    const mask = step(program, "visibility")?.mask ? ["mask"] : [];
    const inputs = ["workspace", "q", "k", "v", "dout", ...bias, ...mask];
    const made = [this.#delta(mask)];
    if (step(program, "sinks")) made.push(this.#sinks());
    if (bias.length > 0 && mask.length > 0) {
      // One buffer more than a stage may have: dk and dv apart.
      const withoutV = inputs.filter((name) => name !== "v");
      made.push(
        this.#tiles([...withoutV, "dv"], { OWN_KEYS: true, DS: false, DX: false, DY: true, DBIAS: false }, 1.5),
      );
      made.push(this.#tiles([...inputs, "dk"], { OWN_KEYS: true, DS: true, DX: true, DY: false, DBIAS: false }, 1.5));
    } else {
      made.push(
        this.#tiles([...inputs, "dk", "dv"], { OWN_KEYS: true, DS: true, DX: true, DY: true, DBIAS: false }, 2),
      );
    }
    made.push(this.#tiles([...inputs, "dq"], { OWN_KEYS: false, DS: true, DX: true, DY: false, DBIAS: false }, 1.5));
    if (bias.length > 0) {
      made.push(this.#tiles([...inputs, "dbias"], { OWN_KEYS: true, DS: true, DX: false, DY: false, DBIAS: true }, 1));
    }
    return made;
  }

  #delta(mask: readonly string[]): Pass {
    const { Sq, Dv } = this.#problem;
    const rows = this.#batches * this.#heads * this.#group * Sq;
    return {
      shader: "backward-delta.wgsl",
      params: this.#without({ MASK: mask.length > 0, Y_QUADS: Dv % 4 === 0 }),
      uniforms: this.#uniforms(),
      buffers: ["out", "dout", "lse", "workspace", ...mask].map((name) => this.#window(name)),
      workgroups: Math.ceil(rows / 16),
      flops: 2 * rows * Dv,
    };
  }

  #sinks(): Pass {
    const { B, Sq } = this.#problem;
    const { SINKS_DTYPE, SINKS_PER_WORD } = scoreParams(this.#problem) as Record<string, number>;
    const { batch } = this.#piece;
    const isLast = batch.to === B;
    const heads = this.#heads * this.#group;
    return {
      shader: "backward-sinks.wgsl",
      params: this.#without({ SINKS_DTYPE, SINKS_PER_WORD, FIRST: batch.from === 0, LAST: isLast }),
      uniforms: this.#uniforms(),
      buffers: ["sinks", "workspace", ...(isLast ? ["dsinks"] : [])].map((name) => this.#window(name)),
      workgroups: heads,
      flops: 8 * this.#batches * heads * Sq,
    };
  }

  /** @param share its arithmetic, in that of a forward pass */
  #tiles(names: readonly string[], outputs: ShaderParams, share: number): Pass {
    const { program, dtype, resultDType, B, H, Sq, Skv, D, Dv } = this.#problem;
    const heads = this.#heads * this.#group;
    const [qTiles, kvTiles] = [Math.ceil(Sq / this.#tile.q), Math.ceil(Skv / this.#tile.kv)];
    let workgroups = this.#batches * (outputs["OWN_KEYS"] ? this.#heads * kvTiles : heads * qTiles);
    if (outputs["DBIAS"]) {
      const [b, h, i, j] = step(program, "bias")!.operand.shape;
      workgroups =
        (b === 1 ? 1 : this.#batches) * (h === 1 ? 1 : heads) * (i === 1 ? 1 : qTiles) * (j === 1 ? 1 : kvTiles);
    }
    const ALIBI = step(program, "alibi") !== undefined;
    return {
      shader: "backward.wgsl",
      params: {
        ...scoreParams(this.#problem),
        // Slopes are read from the workspace, as where there are sinks too. Bands are but numbers here.
        SINKS: ALIBI,
        SINKS_DTYPE: 0,
        SINKS_PER_WORD: 1,
        BAND: false,
        DTYPE: dtypeCode(dtype),
        RESULT: dtypeCode(resultDType),
        X_QUADS: D % 4 === 0,
        Y_QUADS: Dv % 4 === 0,
        SUMS: scoreSums(this.#problem),
        ...unrolled(this.#problem),
        ...(outputs["OWN_KEYS"]
          ? { OWN: 1, OWN_STEP: 1, OTHER: 0, OTHER_STEP: 3 }
          : { OWN: 0, OWN_STEP: 3, OTHER: 1, OTHER_STEP: 1 }),
        ...outputs,
      },
      uniforms: this.#uniforms(),
      buffers: names.map((name) => this.#window(name)),
      workgroups,
      flops: (share * countFlops({ ...this.#problem, op: "attention" }) * this.#batches * heads) / (B * H),
    };
  }

  /** Params of a shader that applies no step of the score, but those given. */
  #without(steps: ShaderParams): ShaderParams {
    const { resultDType, program } = this.#problem;
    const none = scoreParams({ ...this.#problem, program: program.filter(({ kind }) => kind === "scale") });
    return { ...none, ...steps, RESULT: dtypeCode(resultDType) };
  }

  #window(name: string): BufferWindow {
    if (name === "workspace") return { name, bytes: this.workspaceBytes };
    const { offset, bytes } = this.#piece.windows[name === "dbias" ? "bias" : name] ?? {};
    return { name, offset, bytes };
  }

  #first(name: string): number {
    return this.#piece.windows[name]?.first ?? 0;
  }

  #uniforms(): Uint32Array<ArrayBuffer> {
    const { layout, H, Hkv, Sq, Skv, D, Dv, program } = this.#problem;
    const { batch, head } = this.#piece;
    const words = scoreWords(new Words(), this.#problem, { bias: this.#first("bias"), mask: this.#first("mask") })
      .u32(batch.from, this.#batches, head.from, this.#heads, this.#group, Sq, Skv, D, Dv)
      .u32(this.#tile.q, this.#tile.kv, this.#workspace.sums / 4, this.#workspace.terms / 4);
    const tensors = [
      { name: "q", strides: rowStrides(layout, H, Sq, D) },
      { name: "k", strides: rowStrides(layout, Hkv, Skv, D) },
      { name: "v", strides: rowStrides(layout, Hkv, Skv, Dv) },
      { name: "dout", strides: rowStrides(layout, H, Sq, Dv) },
    ];
    for (const { name, strides } of tensors) words.u32(strides.batch, strides.head, strides.row, this.#first(name));
    for (const name of ["dq", "dk", "dv", "out"]) words.u32(this.#first(name));
    words.u32(this.#first("lse"), this.#first("bias"), ...(step(program, "bias")?.operand.shape ?? [1, 1, 1, 1]));
    return words.build();
  }
}

/** The pass that writes the slopes of heads, in pairs with sinks or, without those, anything. */
function slopesPass(problem: AttentionProblem): Pass {
  const { B, H, program } = problem;
  const params = scoreParams({
    ...problem,
    program: program.filter(({ kind }) => kind === "alibi" || kind === "sinks"),
  });
  const hasSinks = step(program, "sinks") !== undefined;
  return {
    shader: "head-terms.wgsl",
    params: hasSinks
      ? params
      : { ...params, SINKS_DTYPE: params["ALIBI_DTYPE"], SINKS_PER_WORD: params["ALIBI_PER_WORD"] },
    uniforms: new Words().u32(B * H, H, step(program, "alibi")!.perBatch ? H : 0).build(),
    buffers: [
      { name: "alibiSlopes" },
      { name: hasSinks ? "sinks" : "alibiSlopes" },
      { name: "workspace", bytes: B * H * 8 },
    ],
    workgroups: Math.ceil((B * H) / 64),
    flops: B * H,
  };
}

function passes({ problem, tile }: Plan<AttentionProblem>, limits: DeviceLimits): readonly Pass[] {
  const { program, Sq, Skv, B, Hkv } = problem;
  const bias = step(program, "bias")?.operand;
  const mask = step(program, "visibility")?.mask;
  const names = [
    "q",
    "k",
    "v",
    "out",
    "dout",
    "lse",
    "dq",
    "dk",
    "dv",
    ...(bias ? ["bias"] : []),
    ...(mask ? ["mask"] : []),
  ];
  // A key's gradient is a sum over all rows, so rows are never split. Tensors without elements have nothing to show.
  const span = (to: number) => ({ from: 0, to });
  const cut =
    B * Sq * Skv === 0
      ? [{ batch: span(B), head: span(Hkv), row: span(Sq), windows: {} }]
      : piecesOf(problem, names, limits, Sq);
  const pieces = cut.map((piece) => new PieceOfBackward(problem, piece, tile));
  const most = limits.maxStorageBufferBindingSize;
  const workspaceBytes = Math.max(...pieces.map((piece) => piece.workspaceBytes));
  if (pieces.length > 1 && bias && (bias.shape[0] === 1 || bias.shape[1] === 1)) {
    throw new FaError(
      "FA_UNSUPPORTED",
      `webgpu: with a bias that batches or heads share, each tensor must fit a binding of ${most} bytes; got larger ones. Give bias every batch and head, or take fewer at once.`,
    );
  }
  if (workspaceBytes > most) {
    throw new FaError(
      "FA_UNSUPPORTED",
      `webgpu: the workspace of a batch must fit a binding of ${most} bytes; got ${workspaceBytes}. Take fewer heads at once.`,
    );
  }
  return [...(step(program, "alibi") ? [slopesPass(problem)] : []), ...pieces.flatMap((piece) => piece.passes())];
}

/** attentionBackward with every option, on the least that WebGPU promises. */
export const BACKWARD: WebgpuRow<AttentionProblem> = {
  id: "backward",
  op: "attentionBackward",
  dtypes: FLOAT_DTYPES,
  headDim: { min: 1, max: MAX_HEAD_DIM },
  steps: SCORE_STEPS,
  needs: [],
  tile: TILE,
  maxTile: TILE,
  // And flags of 256 threads.
  sharedBytes: (problem) => 16 * unrolled(problem as AttentionProblem).SMEM + 4 * 256 + 8,
  workspaceBytes: (problem) => workspaceOf(problem as AttentionProblem).bytes,
  passes,
};
