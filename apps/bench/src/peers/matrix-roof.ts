/**
 * WGSL that multiplies subgroup matrices in registers and does nothing else: 256 invocations, 8 subgroups of 32; a round
 * is 8 products of 16 x 16 x 16, float16 in, float32 out, 8 accumulators so that none waits for another.
 */
const LEFTS = [0, 1];
const RIGHTS = [0, 1, 2, 3];
const SUMS = LEFTS.flatMap((left) => RIGHTS.map((right) => ({ left, right, name: `sum${left}${right}` })));

const lines = (of: readonly string[]): string => of.join("\n  ");

const WGSL: string = `
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

@group(0) @binding(0) var<uniform> rounds: u32;
@group(0) @binding(1) var<storage, read_write> halves: array<f16>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(256)
fn main() {
  ${lines(LEFTS.map((n) => `let left${n} = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&halves, ${256 * n}, 16);`))}
  ${lines(RIGHTS.map((n) => `let right${n} = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&halves, ${256 * (n + 2)}, 16);`))}
  ${lines(SUMS.map(({ name }) => `var ${name} = subgroup_matrix_result<f32, 16, 16>();`))}
  for (var round = 0u; round < rounds; round++) {
    ${lines(SUMS.map(({ name, left, right }) => `${name} = subgroupMatrixMultiplyAccumulate(left${left}, right${right}, ${name});`))}
  }
  ${lines(SUMS.map(({ name }, n) => `subgroupMatrixStore<row_major>(&sums, ${256 * n}, ${name}, 16);`))}
}
`;
export default WGSL;
