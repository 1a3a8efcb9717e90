// Rows of the bindings q, k and v, array<Storage>, in units of UNIT elements: WORDS words of storage, and UNIT / 4 vectors of float32.
// With VECTOR every row begins at a multiple of 16 bytes and holds whole units of 16 bytes, and Storage is vec4u;
// else it is u32 and a row may begin anywhere.

//#if VECTOR
alias Storage = vec4u;
//#else
alias Storage = u32;
//#endif

// The elements that are NaN or Inf as 1 bits, all others as 0 bits.
fn nonfinite_elements(unit: vec4u) -> vec4u {
  let bad = nonfinite4(${DTYPE}u, unit);
  //#if DTYPE == F32
  return (bad >> vec4u(31u)) * 0xffffffffu;
  //#elif DTYPE == F8
  return (bad >> vec4u(7u)) * 0xffu;
  //#else
  return (bad >> vec4u(15u)) * 0xffffu;
  //#endif
}

// Watches units go by: what it returns for one is given to it with the next, from 0 on. Then `was_bad` says whether some
// element of them was NaN or Inf.
fn watch(before: vec4u, unit: vec4u) -> vec4u {
  //#if DTYPE == F32
  return max(before, unit << vec4u(1u));
  //#else
  return before | nonfinite4(${DTYPE}u, unit);
  //#endif
}

fn was_bad(watched: vec4u) -> bool {
  //#if DTYPE == F32
  return any(watched >= vec4u(0xff000000u));
  //#else
  return any(watched != vec4u());
  //#endif
}

// Vector n of a unit whose elements are all finite.
fn unit_vector(unit: vec4u, n: u32) -> vec4f {
  //#if DTYPE == F32
  return bitcast<vec4f>(unit);
  //#elif DTYPE == F16
  return vec4f(unpack_f16(unit[n * 2u]), unpack_f16(unit[n * 2u + 1u]));
  //#elif DTYPE == BF16
  return vec4f(unpack_bf16(unit[n * 2u]), unpack_bf16(unit[n * 2u + 1u]));
  //#else
  return unpack_f8(unit[n]);
  //#endif
}

//#if !VECTOR
// A unit that begins `shift` bits into its words: the first `count` elements, 0 behind them.
fn cut_unit(words: vec4u, behind: u32, shift: u32, count: u32) -> vec4u {
  let next = vec4u(words.yzw, behind);
  let joined = select((words >> vec4u(shift)) | (next << vec4u((32u - shift) & 31u)), words, vec4<bool>(shift == 0u));
  let bits = clamp(vec4i(i32(count * ${32 / PER_WORD}u)) - vec4i(0, 32, 64, 96), vec4i(0), vec4i(32));
  return joined & select((vec4u(1u) << vec4u(bits & vec4i(31))) - 1u, vec4u(0xffffffffu), bits == vec4i(32));
}
//#endif

// Elements [at, at + UNIT) of a tensor; those from `count` on are 0. No branch: a branch round a load makes the
// next one wait for it.
fn load_q(at: u32, count: u32) -> vec4u {
  //#if VECTOR
  return select(vec4u(), q[at / ${UNIT}u], vec4<bool>(count > 0u));
  //#else
  let word = at / ${PER_WORD}u;
  let words = vec4u(q[word], q[word + 1u], q[word + 2u], q[word + 3u]);
  return cut_unit(words, q[word + 4u], at % ${PER_WORD}u * ${32 / PER_WORD}u, count);
  //#endif
}

fn load_k(at: u32, count: u32) -> vec4u {
  //#if VECTOR
  return select(vec4u(), k[at / ${UNIT}u], vec4<bool>(count > 0u));
  //#else
  let word = at / ${PER_WORD}u;
  let words = vec4u(k[word], k[word + 1u], k[word + 2u], k[word + 3u]);
  return cut_unit(words, k[word + 4u], at % ${PER_WORD}u * ${32 / PER_WORD}u, count);
  //#endif
}

fn load_v(at: u32, count: u32) -> vec4u {
  //#if VECTOR
  return select(vec4u(), v[at / ${UNIT}u], vec4<bool>(count > 0u));
  //#else
  let word = at / ${PER_WORD}u;
  let words = vec4u(v[word], v[word + 1u], v[word + 2u], v[word + 3u]);
  return cut_unit(words, v[word + 4u], at % ${PER_WORD}u * ${32 / PER_WORD}u, count);
  //#endif
}

// How many of UNIT elements from column `at` on there are.
fn elements_at(at: u32, columns: u32) -> u32 {
  return select(0u, min(${UNIT}u, columns - at), at < columns);
}
