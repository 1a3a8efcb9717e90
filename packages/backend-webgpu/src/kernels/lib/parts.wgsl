// Parts: what workgroups leave of a row's keys for one of them to join, within one dispatch (lib/join.wgsl, lib/join-subgroups.wgsl).
// The kernel's uniforms `args` have `splits`, `rows` (Sq), `to_exponent`, `to_logit` and the strides of out; its bindings are
// `out`, `lse` and `state`.
//
// WGSL orders what one workgroup writes and another reads by nothing: atomics are relaxed, and barriers end at the workgroup. So
// no word of a part says anything of another. Each says for itself that it is there: words of `state` are 0 until they are
// written, what is written is never 0, and who finds 0 looks again. It cannot last: who looks was the last of those that
// write, told by a counter, and the others had written before they counted. It puts 0 back in the end.
//
// A word that is written is 1 more than the bits of a finite float32, or NAN_WORD, which is above all of them. So the least and
// the largest of some words say whether all are there and whether all are finite.

const NAN_WORD: u32 = 0xffffffffu;

fn word_of(acc: f32, bad: bool) -> u32 {
  let bits = bitcast<u32>(acc);
  return select(NAN_WORD, bits + 1u, is_finite(bits) && !bad);
}
