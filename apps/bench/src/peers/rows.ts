import { decode, type AttentionProblem, type FloatDType, type Tensor, type TensorData } from "@fa/core";
import { headsToCheck, rowsToCheck } from "../verify.ts";
import type { Output } from "./player.ts";

/**
 * The rows of a result that are checked, as numbers.
 * @param data [B H, Sq, width]
 * @returns [heads, rows, width]
 */
export function rowsAlone(problem: AttentionProblem, dtype: FloatDType, width: number, data: TensorData): Float32Array {
  const { B, H, Sq } = problem;
  const [heads, rows] = [headsToCheck(problem), rowsToCheck(problem)];
  const { buffer, byteOffset, byteLength } = data;
  const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
  const rowBytes = byteLength / (B * H * Sq);
  const taken = new Uint8Array(heads.length * rows.length * rowBytes);
  let to = 0;
  for (const head of heads) {
    for (const i of rows) {
      const at = (head * Sq + i) * rowBytes;
      taken.set(bytes.subarray(at, at + rowBytes), to);
      to += rowBytes;
    }
  }
  const numbers = Float32Array.from(decode(dtype, taken));
  if (numbers.length !== heads.length * rows.length * width) throw new Error(`a result of ${byteLength} bytes`);
  return numbers;
}

/** What a call of ours gave: of large tensors only the rows that are checked leave the device's process. */
export function gpuResult(
  problem: AttentionProblem,
  { out, lse }: { readonly out: Tensor; readonly lse: Tensor },
): Output {
  return {
    numbers: async () => ({
      out: rowsAlone(problem, problem.resultDType, problem.Dv, await out.data()),
      lse: rowsAlone(problem, "float32", 1, await lse.data()),
    }),
    dispose() {
      out.dispose();
      lse.dispose();
    },
  };
}
