import { decode, type AttentionProblem, type FloatDType, type TensorData } from "@fa/core";
import { rowsToCheck } from "../verify.ts";

/**
 * The rows of a result that are checked, as numbers.
 * @param data [heads, Sq, width]
 * @returns [heads, rows, width]
 */
export function rowsAlone(problem: AttentionProblem, dtype: FloatDType, width: number, data: TensorData): Float32Array {
  const { B, H, Sq } = problem;
  const rows = rowsToCheck(problem);
  const { buffer, byteOffset, byteLength } = data;
  const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
  const rowBytes = byteLength / (B * H * Sq);
  const taken = new Uint8Array(B * H * rows.length * rowBytes);
  for (let head = 0; head < B * H; head++) {
    rows.forEach((i, n) => {
      const at = (head * Sq + i) * rowBytes;
      taken.set(bytes.subarray(at, at + rowBytes), (head * rows.length + n) * rowBytes);
    });
  }
  const numbers = Float32Array.from(decode(dtype, taken));
  if (numbers.length !== B * H * rows.length * width) throw new Error(`a result of ${byteLength} bytes`);
  return numbers;
}
