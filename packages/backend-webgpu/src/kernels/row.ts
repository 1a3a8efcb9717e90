import type { KernelRow, Plan, Problem } from "@fa/core";
import type { ShaderParams } from "../wgsl.ts";

/** What a kernel may know of the device beyond the features in its row. */
export interface DeviceLimits {
  /** Bytes of workgroup memory. */
  readonly maxComputeWorkgroupStorageSize: number;
  readonly maxComputeInvocationsPerWorkgroup: number;
  /** Largest piece of a buffer that a shader may see at once, in bytes. */
  readonly maxStorageBufferBindingSize: number;
  readonly maxStorageBuffersPerShaderStage: number;
  /** Alignment of the start of such a piece, in bytes. */
  readonly minStorageBufferOffsetAlignment: number;
  /** Smallest and largest number of invocations of a subgroup; 0 where there are none. */
  readonly subgroupMinSize: number;
  readonly subgroupMaxSize: number;
}

/** A tensor, or the plan's `workspace`, as a shader sees it: whole, or a window of it. */
export interface BufferWindow {
  readonly name: string;
  /** Bytes from the start, a multiple of minStorageBufferOffsetAlignment. Default 0. */
  readonly offset?: number | undefined;
  /** Default: to the end. */
  readonly bytes?: number | undefined;
}

/**
 * One shader over one grid. A plan is one or more passes, run in order; each sees what those before it wrote.
 *
 * A shader's binding 0 is its uniforms, the storage buffers follow from 1 in the order of `buffers`. The first four words of the
 * uniforms are the launcher's (lib/launch.wgsl): a grid larger than a dispatch may be, or longer than it should run, is cut
 * into several.
 */
export interface Pass {
  /** File under `kernels/`. */
  readonly shader: string;
  /** What is compiled in. A shader is compiled once for each set of values. */
  readonly params: ShaderParams;
  /** The words of the uniforms after the launcher's four; floats as bits. */
  readonly uniforms: Uint32Array<ArrayBuffer>;
  readonly buffers: readonly BufferWindow[];
  /**
   * Bytes of the buffer `state` that it uses: device memory that is all 0 when the pass begins, and that it leaves all 0. By
   * it workgroups of one dispatch pass on what they have.
   */
  readonly stateBytes?: number | undefined;
  /** In all; the shader counts them in one dimension. */
  readonly workgroups: number;
  /** The same in three, for a shader that then need not count: taken where the grid is one dispatch. */
  readonly grid?: readonly [number, number, number] | undefined;
  /** Arithmetic of the pass, by which long ones are cut. */
  readonly flops: number;
}

/** A row of the kernel table: core's facts, and how its passes are made. */
export interface WebgpuRow<P extends Problem = Problem> extends KernelRow {
  /** @param bound names of the tensors that this call has, such as `lse` when it is wanted */
  passes(plan: Plan<P>, limits: DeviceLimits, bound: ReadonlySet<string>): readonly Pass[];
}

/** Writes the words of a uniform struct: unsigned and signed integers as they are, floats as their bits. */
export class Words {
  readonly #words: number[] = [];

  u32(...values: number[]): this {
    // Wraps: offsets of elements are counted modulo 2^32, and only their differences are used.
    for (const value of values) this.#words.push(Number(BigInt.asUintN(32, BigInt(value))));
    return this;
  }

  f32(...values: number[]): this {
    for (const value of values) this.#words.push(new Uint32Array(Float32Array.of(value).buffer)[0]);
    return this;
  }

  build(): Uint32Array<ArrayBuffer> {
    return Uint32Array.from(this.#words);
  }
}
