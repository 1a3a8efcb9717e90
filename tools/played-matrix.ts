/**
 * Kernels on subgroup matrices, played without them: no software adapter has any, and a device that has is not everywhere. The shader
 * is the table's, but for matrices, which become arrays of lanes: a lane has a row of a left operand, 8 columns of a
 * right one, and 8 elements of a row of a result. Needs subgroups of 16 or 32 for the exchange of two lanes.
 */
import type { AttentionProblem } from "@fa/core";
import { SHADERS } from "../packages/backend-webgpu/src/generated/shaders.ts";
import { matrixRow, type MatrixTuning } from "../packages/backend-webgpu/src/kernels/matrix.ts";
import type { WebgpuRow } from "../packages/backend-webgpu/src/kernels/row.ts";

const PLAYED = "matrix-played.wgsl";

const MATRICES = `
// Not known when it is compiled, so that no loop is unrolled.
var<private> own_lane: u32;
alias Left = array<f32, 16>;
alias Right = array<f32, 128>;
alias Sum = array<f32, 8>;
alias Product = array<f32, 8>;

fn halves(chunk: vec4u) -> array<f32, 8> {
  let a = unpack2x16float(chunk.x);
  let b = unpack2x16float(chunk.y);
  let c = unpack2x16float(chunk.z);
  let d = unpack2x16float(chunk.w);
  return array<f32, 8>(a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y);
}

fn left_of(first: vec4u, second: vec4u) -> Left {
  let a = halves(first);
  let b = halves(second);
  var left: Left;
  for (var n = 0u; n < 8u + args.score.unused.x; n++) {
    left[n] = a[n];
    left[n + 8u] = b[n];
  }
  return left;
}

fn left_of_scores(at: u32, stride: u32) -> Left {
  let start = at + own_lane / 2u * stride;
  return left_of(scores[start], scores[start + 1u]);
}

fn left_of_p(at: u32, stride: u32) -> Left {
  let start = at + own_lane / 2u * stride;
  //#if P_APART
  return left_of(probabilities[start], probabilities[start + 1u]);
  //#else
  return left_of(scores[start], scores[start + 1u]);
  //#endif
}

// K: a column lies along its features. Element [k, n] at 8 k + n, n counted from the lane's first column.
fn right_of_k(at: u32, stride: u32) -> Right {
  var right: Right;
  for (var n = 0u; n < 8u + args.score.unused.x; n++) {
    let start = at + (8u * (own_lane % 2u) + n) * stride;
    let column = left_of(k_tile[start], k_tile[start + 1u]);
    for (var k = 0u; k < 16u + args.score.unused.x; k++) {
      right[8u * k + n] = column[k];
    }
  }
  return right;
}

fn right_of_v(at: u32, stride: u32) -> Right {
  var right: Right;
  for (var k = 0u; k < 16u + args.score.unused.x; k++) {
    let row = halves(v_tile[at + k * stride + own_lane % 2u]);
    for (var n = 0u; n < 8u + args.score.unused.x; n++) {
      right[8u * k + n] = row[n];
    }
  }
  return right;
}

fn multiply(left: Left, right: Right, sum: Sum) -> Sum {
  var l = left;
  var r = right;
  var result = sum;
  for (var k = 0u; k < 16u + args.score.unused.x; k++) {
    for (var n = 0u; n < 8u + args.score.unused.x; n++) {
      result[n] += l[k] * r[8u * k + n];
    }
  }
  return result;
}

fn multiply_product(left: Left, right: Right, sum: Product) -> Product {
  var result = multiply(left, right, sum);
  //#if F16_SCORES
  for (var n = 0u; n < 8u + args.score.unused.x; n++) {
    let x = result[n];
    // Beyond what float16 holds: infinite, as bits.
    result[n] = select(quantizeToF16(clamp(x, -65504.0, 65504.0)), bitcast<f32>((bitcast<u32>(x) & 0x80000000u) | (0x7f800000u + args.score.unused.x)), abs(x) >= 65520.0);
  }
  //#endif
  return result;
}

fn store_sum(at: u32, x: Sum, stride: u32) {
  let to = at + own_lane / 2u * stride + 2u * (own_lane % 2u);
  scores[to] = bitcast<vec4u>(vec4f(x[0], x[1], x[2], x[3]));
  scores[to + 1u] = bitcast<vec4u>(vec4f(x[4], x[5], x[6], x[7]));
}

fn store_product(at: u32, x: Product, stride: u32) {
  //#if F16_SCORES
  let to = at + own_lane / 2u * stride + own_lane % 2u;
  scores[to] = pack8(vec4f(x[0], x[1], x[2], x[3]), vec4f(x[4], x[5], x[6], x[7]));
  //#else
  store_sum(at, x, stride);
  //#endif
}
`;

function played(text: string): string {
  const replaced = text
    .replaceAll(/^(enable chromium|requires|diagnostic\(off, chromium).*\n/gm, "")
    .replace(/alias Left[\s\S]*?\/\/#endif\n/, MATRICES)
    .replaceAll(/\s*@builtin\(subgroup_id\).*\n\s*@builtin\(subgroup_invocation_id\).*\n/g, "\n")
    .replace(
      "  let n = workgroup_index(",
      "  let subgroup = thread / 32u;\n  let lane = thread % 32u;\n  own_lane = lane;\n  let n = workgroup_index(",
    )
    .replaceAll(/subgroupMatrixLoad<Left, row_major>\(&scores, /g, "left_of_scores(")
    .replaceAll(/subgroupMatrixLoad<Left, row_major>\(p_memory, /g, "left_of_p(")
    .replaceAll(/subgroupMatrixLoad<Right, col_major>\(&k_tile, /g, "right_of_k(")
    .replaceAll(/subgroupMatrixLoad<Right, row_major>\(&v_tile, /g, "right_of_v(")
    .replaceAll(/(s_\$\{r\} = )subgroupMatrixMultiplyAccumulate\(/g, "$1multiply_product(")
    .replaceAll(/subgroupMatrixMultiplyAccumulate\(/g, "multiply(")
    .replaceAll(/subgroupMatrixStore<row_major>\(&scores, (.*), (s_\$\{r\})/g, "store_product($1, $2")
    .replaceAll(/subgroupMatrixStore<row_major>\(&scores, /g, "store_sum(");
  const left = /subgroup_?[mM]atrix\w*|\bsubgroup_id\b/.exec(replaced.replaceAll(/\/\/.*/g, ""));
  if (left) throw new Error(`${left[0]} is not played`);
  return replaced;
}

/** A row of the table, played. */
export function playedRow(id: string, maxHeadDim: number, tuning: MatrixTuning): WebgpuRow<AttentionProblem> {
  (SHADERS as Record<string, string>)[PLAYED] ??= played(SHADERS["matrix.wgsl"]);
  const row = matrixRow(id, maxHeadDim, tuning);
  return {
    ...row,
    passes: (plan, limits, bound) => row.passes(plan, limits, bound).map((pass) => ({ ...pass, shader: PLAYED })),
  };
}
