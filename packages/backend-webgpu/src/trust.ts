import { measure, measuredProblem, reference, type Backend, type KernelRow } from "@fa/core";

/**
 * Why a kernel is not to be trusted on this device, or undefined: it is run on problems whose answer the reference knows. For
 * kernels that rest on an experiment of the platform, which may compile and still compute something else.
 */
export async function distrust(backend: Backend, row: KernelRow): Promise<string | undefined> {
  const truth = await reference().open();
  const { min, max } = row.headDim ?? { min: 1, max: Infinity };
  // The largest head dim of the usual ones: to compile a kernel takes seconds.
  for (const D of [64, 128].filter((dim) => min <= dim && dim <= max).slice(-1)) {
    // Tails on both sides, tiles that are full (enough of them for loops that take several at once), partial and empty, and
    // heads that share keys.
    const problem = measuredProblem({
      H: 2,
      Hkv: 1,
      Sq: 75,
      Skv: 267,
      D,
      dtype: row.dtypes[0] as "float16",
      options: { causal: true },
    });
    const known = await measure(truth, problem, undefined);
    if (!known.ok) return known.reason;
    const got = await measure(backend, problem, known.out, { kernels: [row] });
    if (!got.ok) return `${row.id}: ${got.reason}`;
  }
  return undefined;
}
