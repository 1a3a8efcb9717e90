// Parts: what workgroups leave of a row's keys for one of them to join, within one dispatch. The kernel's uniforms `args` have
// `splits`, `rows` (Sq), `to_exponent`, `to_logit` and the strides of out; its bindings are `out`, `lse` and `state`.
//
// WGSL orders what one workgroup writes and another reads by nothing: atomics are relaxed, and barriers end at the workgroup. So
// no word of a part says anything of another. Each says for itself that it is there: words of `state` are 0 until they are
// written, what is written is the complement of float32 bits, which is never 0, and who finds 0 looks again. It cannot last:
// who looks was the last of those that write, told by a counter, and the others had written before they counted. It puts 0
// back in the end.
//
// It is written for little code: a workgroup runs it once, and waits for the code itself.

// The rows that share a key head: batch, first query head, how many, and vectors of columns of each.
struct Group {
  b: u32,
  h: u32,
  rows: u32,
  vectors: u32,
}

// Four columns of a row: acc as float32 bits, relative to m; and the row's m and l.
struct Joined {
  bits: vec4u,
  m: f32,
  l: f32,
}

// A part is acc [4, R, vectors], the first column of each vector first, then m [R] and l [R].
fn part_words(group: Group) -> u32 {
  return group.rows * (4u * group.vectors + 2u);
}

// What is relative to m, relative to a larger max.
fn weight4(m: vec4f, top: vec4f) -> vec4f {
  return select(exp2((m - subtrahend(top)) * args.to_exponent), vec4f(), m == vec4f(HIDDEN));
}

// Writes vector n of all rows, of row n / vectors, to the part that begins at word `part`.
fn leave(group: Group, part: u32, n: u32, r: u32, joined: Joined) {
  let stride = group.rows * group.vectors;
  //#for e in 4
  atomicStore(&state[part + n + ${e}u * stride], ~joined.bits[${e}]);
  //#endfor
  if (n == r * group.vectors) {
    atomicStore(&state[part + 4u * stride + r], ~bitcast<u32>(joined.m));
    atomicStore(&state[part + 4u * stride + group.rows + r], ~bitcast<u32>(joined.l));
  }
}

// Writes it to out.
fn finish(group: Group, n: u32, r: u32, joined: Joined) {
  let h = group.h + r / args.rows;
  let i = r % args.rows;
  let column = n - r * group.vectors;
  let head = head_of(group.b, h);
  let finite = (joined.bits & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
  let nan = select(vec4u(1u, 2u, 4u, 8u), vec4u(), finite);
  let logit = select(joined.m, 0.0, joined.m == HIDDEN) * args.to_logit;
  let seen = finish_row(head, h, joined.m, logit, joined.l, false);
  //#if LSE
  if (column == 0u) {
    lse[head.index * args.rows + i - args.lse_first] = seen.lse;
  }
  //#endif
  let acc = select(vec4f(), bitcast<vec4f>(joined.bits), finite);
  let at = group.b * args.out_batch + h * args.out_head + i * args.out_row - args.out_first;
  store_out(at, column * 4u, acc, nan.x | nan.y | nan.z | nan.w, seen);
}

// Vector n, of row r, of parts [first, end) of those from word `start` on, joined in their order.
fn join(group: Group, first: u32, end: u32, start: u32, n: u32, r: u32) -> Joined {
  let words = part_words(group);
  let stride = group.rows * group.vectors;
  var acc = vec4f();
  var nan = vec4u();
  var m = HIDDEN;
  var l = 0.0;
  for (var p = first; p < end; p += ${4 * QUADS_TAKEN}u) {
    // Several are on their way at a time. Behind the last part it is the last again, and weighs nothing.
    //#for x in 4 * QUADS_TAKEN
    let part${x} = start + min(p + ${x}u, end - 1u) * words;
    var bits${x}: vec4u;
    //#endfor
    //#for quad in QUADS_TAKEN
    var m_bits${quad}: vec4u;
    var l_bits${quad}: vec4u;
    //#endfor
    loop {
      //#for x in 4 * QUADS_TAKEN
      bits${x} = vec4u(
        atomicLoad(&state[part${x} + n]),
        atomicLoad(&state[part${x} + n + stride]),
        atomicLoad(&state[part${x} + n + 2u * stride]),
        atomicLoad(&state[part${x} + n + 3u * stride]),
      );
      m_bits${x / 4}[${x % 4}] = atomicLoad(&state[part${x} + 4u * stride + r]);
      l_bits${x / 4}[${x % 4}] = atomicLoad(&state[part${x} + 4u * stride + group.rows + r]);
      //#endfor
      var least = min(m_bits0, l_bits0);
      //#for quad in QUADS_TAKEN - 1
      least = min(least, min(m_bits${quad + 1}, l_bits${quad + 1}));
      //#endfor
      //#for x in 4 * QUADS_TAKEN
      least = min(least, bits${x});
      //#endfor
      if (all(least != vec4u())) {
        break;
      }
    }
    var top = m;
    //#for quad in QUADS_TAKEN
    let there${quad} = vec4u(p + ${4 * quad}u) + vec4u(0u, 1u, 2u, 3u) < vec4u(end);
    let m${quad} = select(vec4f(HIDDEN), bitcast<vec4f>(~m_bits${quad}), there${quad});
    top = max(top, max(max(m${quad}.x, m${quad}.y), max(m${quad}.z, m${quad}.w)));
    //#endfor
    let alpha = weight4(vec4f(m), vec4f(top)).x;
    m = top;
    l *= alpha;
    acc *= alpha;
    //#for quad in QUADS_TAKEN
    let weight${quad} = weight4(m${quad}, vec4f(top));
    l += dot(weight${quad}, bitcast<vec4f>(~l_bits${quad}));
    //#for x in 4
    {
      let taken = ~bits${4 * quad + x};
      let finite = (taken & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
      nan |= select(vec4u(1u), vec4u(), finite);
      acc = fma(vec4f(weight${quad}[${x}]), select(vec4f(), bitcast<vec4f>(taken), finite), acc);
    }
    //#endfor
    //#endfor
  }
  let bits = vec4u(finite_or_nan(acc.x), finite_or_nan(acc.y), finite_or_nan(acc.z), finite_or_nan(acc.w));
  return Joined(select(bits, vec4u(0x7fc00000u), nan != vec4u()), m, l);
}

// Parts of a set that have been counted.
var<workgroup> counted_smem: u32;
//#if SLICES > 1
// What threads have joined of a slice of the parts: acc in the kernel's `bits_smem` [THREADS], nobody's by then, m and l here.
var<workgroup> ends_smem: array<vec2f, ${THREADS}>;

// Slices of vector `own` joined in their order.
fn join_slices(own: u32) -> Joined {
  var m = HIDDEN;
  //#for x in SLICES
  let ends${x} = ends_smem[${x * THREADS / SLICES}u + own];
  m = max(m, ends${x}.x);
  //#endfor
  var acc = vec4f();
  var nan = vec4u();
  var l = 0.0;
  //#for x in SLICES
  {
    let bits = bits_smem[${x * THREADS / SLICES}u + own];
    let finite = (bits & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
    let weight = weight4(vec4f(ends${x}.x), vec4f(m));
    nan |= select(vec4u(1u), vec4u(), finite);
    acc = fma(weight, select(vec4f(), bitcast<vec4f>(bits), finite), acc);
    l = fma(weight.x, ends${x}.y, l);
  }
  //#endfor
  let bits = vec4u(finite_or_nan(acc.x), finite_or_nan(acc.y), finite_or_nan(acc.z), finite_or_nan(acc.w));
  return Joined(select(bits, vec4u(0x7fc00000u), nan != vec4u()), m, l);
}
//#endif

// Counts part `split` of a key head, which this workgroup has left, and joins what it completes: sets of FAN parts to one part
// each, and those likewise, until one is left.
fn join_parts(group: Group, thread: u32, split: u32, first_counter: u32, first_word: u32) {
  let words = part_words(group);
  let stride = group.rows * group.vectors;
  var part = split;
  var parts = args.splits;
  var counter = first_counter;
  var word = first_word;
  loop {
    let which = part / ${FAN}u;
    let sets = (parts + ${FAN - 1}u) / ${FAN}u;
    let size = min(${FAN}u, parts - which * ${FAN}u);
    storageBarrier();
    if (thread == 0u) {
      counted_smem = atomicAdd(&state[counter + which], 1u) + 1u;
    }
    if (workgroupUniformLoad(&counted_smem) != size) {
      return;
    }
    let start = word + which * ${FAN}u * words;
    // Of the threads, one in SLICES has a vector, and each of those a slice of the parts.
    let own = thread % ${THREADS / SLICES}u;
    let share = (size + ${SLICES - 1}u) / ${SLICES}u;
    let first = min(thread / ${THREADS / SLICES}u * share, size);
    for (var n0 = 0u; n0 < stride; n0 += ${THREADS / SLICES}u) {
      let n = n0 + own;
      let r = n / group.vectors;
      //#if SLICES > 1
      if (n < stride) {
        let joined = join(group, first, min(first + share, size), start, n, r);
        bits_smem[thread] = joined.bits;
        ends_smem[thread] = vec2f(joined.m, joined.l);
      }
      workgroupBarrier();
      //#endif
      if (n < stride && thread == own) {
        //#if SLICES > 1
        let joined = join_slices(own);
        //#else
        let joined = join(group, first, size, start, n, r);
        //#endif
        if (sets == 1u) {
          finish(group, n, r, joined);
        } else {
          leave(group, word + (parts + which) * words, n, r, joined);
        }
      }
      workgroupBarrier();
    }
    if (thread == 0u) {
      atomicStore(&state[counter + which], 0u);
    }
    for (var n = thread; n < size * words; n += ${THREADS}u) {
      atomicStore(&state[start + n], 0u);
    }
    if (sets == 1u) {
      return;
    }
    counter += sets;
    word += parts * words;
    part = which;
    parts = sets;
  }
}
