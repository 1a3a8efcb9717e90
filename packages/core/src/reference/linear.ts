import type { LinearProblem } from "../problem.ts";
import { addScaled, dot } from "./data.ts";

/** Results of y = x W^T + bias: one array [M, width] per width of the split. Shapes x [M, K], weight [N, K], bias [N]. */
export function naiveLinear(
  { M, K, split }: LinearProblem,
  {
    x,
    weight,
    bias,
  }: { readonly x: Float64Array; readonly weight: Float64Array; readonly bias?: Float64Array | undefined },
): Float64Array[] {
  let first = 0;
  return split.map((width) => {
    const y = new Float64Array(M * width);
    for (let r = 0; r < M; r++) {
      for (let c = 0; c < width; c++) {
        const n = first + c;
        y[r * width + c] = dot(x, r * K, weight, n * K, K) + (bias?.[n] ?? 0);
      }
    }
    first += width;
    return y;
  });
}

/** dx = dy W [M, K], dweight = dy^T x [N, K], dbias = column sums of dy [N]; dy as one array [M, width] per width. */
export function naiveLinearBackward(
  { M, N, K, split }: LinearProblem,
  { x, weight, dy }: { readonly x: Float64Array; readonly weight: Float64Array; readonly dy: readonly Float64Array[] },
): { dx: Float64Array; dweight: Float64Array; dbias: Float64Array } {
  const dx = new Float64Array(M * K);
  const dweight = new Float64Array(N * K);
  const dbias = new Float64Array(N);
  let first = 0;
  for (const [part, width] of split.entries()) {
    for (let r = 0; r < M; r++) {
      for (let c = 0; c < width; c++) {
        const n = first + c;
        const gradient = dy[part][r * width + c];
        addScaled(dx, r * K, gradient, weight, n * K, K);
        addScaled(dweight, n * K, gradient, x, r * K, K);
        dbias[n] += gradient;
      }
    }
    first += width;
  }
  return { dx, dweight, dbias };
}
