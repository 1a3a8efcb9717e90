// The end of a row: from m, l and acc to out and lse. The kernel's uniforms `args` have Dv as `columns`; the file is included
// behind the binding `out`.

// How a row ends.
struct Seen {
  // Multiplies acc.
  weight: f32,
  // Float32 bits.
  lse: u32,
  // The row is NaN.
  bad: bool,
  // The row saw a key.
  any: bool,
}

// @param m the max that l is relative to, and `logit` the same as a natural logit
fn finish_row(head: Head, h: u32, m: f32, logit: f32, l: f32, is_bad: bool) -> Seen {
  let bad = is_bad || m >= BAD_MAX;
  //#if SINKS
  let bits = sink_bits(head, h);
  if (bits != 0xff800000u) {
    if (bad || !is_finite(bits)) {
      return Seen(0.0, 0x7fc00000u, true, true);
    }
    let sink = bitcast<f32>(bits);
    if (l == 0.0) {
      return Seen(0.0, bits, false, false);
    }
    let most = max(logit, sink);
    let rest = exp2((logit - most) * LOG2_E);
    let sum = l * rest + exp2((sink - most) * LOG2_E);
    return Seen(rest / sum, finite_or_nan(most + log(sum)), false, true);
  }
  //#endif
  if (bad) {
    return Seen(0.0, 0x7fc00000u, true, true);
  }
  if (l == 0.0) {
    return Seen(0.0, 0xff800000u, false, false);
  }
  return Seen(1.0 / l, finite_or_nan(logit + log(l)), false, true);
}

// Writes columns d to d + 3 of the row of out that begins at element `at`. Bit n of `bad`: column d + n is NaN if the row saw a key.
fn store_out(at: u32, d: u32, acc: vec4f, bad: u32, seen: Seen) {
  if (d >= args.columns) {
    return;
  }
  var x = acc * seen.weight;
  //#if DROPOUT
  x *= args.score.keep_scale;
  //#endif
  let nan = select(select(0u, bad, seen.any), 15u, seen.bad);
  let finite = vec4u(finite_or_nan(x.x), finite_or_nan(x.y), finite_or_nan(x.z), finite_or_nan(x.w));
  let bits = select(finite, vec4u(0x7fc00000u), (vec4u(nan) & vec4u(1u, 2u, 4u, 8u)) != vec4u());
  //#if OUT_WORDS == 4
  out[(at + d) / 4u] = bits;
  //#elif OUT_WORDS == 2
  out[(at + d) / 4u] = vec2u(pack2(${OUT_DTYPE}u, bits.xy), pack2(${OUT_DTYPE}u, bits.zw));
  //#elif OUT_DTYPE == F32
  for (var n = 0u; n < min(4u, args.columns - d); n++) {
    out[at + d + n] = bits[n];
  }
  //#elif OUT_WORDS == 1
  out[(at + d) / 2u] = pack2(${OUT_DTYPE}u, bits.xy);
  if (d + 2u < args.columns) {
    out[(at + d) / 2u + 1u] = pack2(${OUT_DTYPE}u, bits.zw);
  }
  //#else
  // A word may hold the end of one row and the beginning of the next, each written by another thread.
  for (var n = 0u; n < min(4u, args.columns - d); n++) {
    let element = at + d + n;
    let shift = element % 2u * 16u;
    atomicAnd(&out[element / 2u], 0xffff0000u >> shift);
    atomicOr(&out[element / 2u], narrow(${OUT_DTYPE}u, bits[n]) << shift);
  }
  //#endif
}
