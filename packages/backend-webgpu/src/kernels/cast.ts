import { bytesPerElement, FLOAT_DTYPES, type CastProblem, type Plan } from "@fa/core";
import { DTYPE_CODES, dtypeCode } from "./dtypes.ts";
import { Words, type DeviceLimits, type Pass, type WebgpuRow } from "./row.ts";

/** Invocations of a workgroup, and words of the result that each writes. */
const THREADS = 256;
const WORDS = 4;
/** Elements that a workgroup takes of the widest result. */
const TILE = { q: 1, kv: THREADS * WORDS };

function passes({ problem }: Plan<CastProblem>, limits: DeviceLimits): Pass[] {
  const { dtype, resultDType, elements } = problem;
  const bytes = { x: bytesPerElement(dtype), y: bytesPerElement(resultDType) };
  // Windows begin at multiples of the alignment in bytes of either, and so hold whole words.
  const alignment = limits.minStorageBufferOffsetAlignment;
  const most = Math.floor(limits.maxStorageBufferBindingSize / Math.max(bytes.x, bytes.y) / alignment) * alignment;
  const made: Pass[] = [];
  for (let first = 0; first < elements; first += most) {
    const taken = Math.min(most, elements - first);
    made.push({
      shader: "cast.wgsl",
      params: { ...DTYPE_CODES, FROM: dtypeCode(dtype), TO: dtypeCode(resultDType), THREADS, WORDS },
      uniforms: new Words().u32(taken).build(),
      buffers: (["x", "y"] as const).map((name) => ({
        name,
        offset: first * bytes[name],
        bytes: Math.ceil((taken * bytes[name]) / 4) * 4,
      })),
      workgroups: Math.ceil((taken * bytes.y) / 4 / (THREADS * WORDS)),
      // Rounding by integers, in the steps that a multiplication or addition takes.
      flops: 8 * taken,
    });
  }
  return made;
}

/** fa.cast between any two float dtypes. */
export const CAST: WebgpuRow<CastProblem> = {
  id: "cast",
  op: "cast",
  dtypes: FLOAT_DTYPES,
  needs: [],
  tile: TILE,
  maxTile: TILE,
  workspaceBytes: () => 0,
  passes,
};
