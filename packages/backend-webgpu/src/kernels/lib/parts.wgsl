// Parts: what workgroups leave of a row's keys for one of them to join, within one dispatch. The kernel's uniforms `args` have
// `splits`, `rows` (Sq), `to_exponent`, `to_logit` and the strides of out; its bindings are `out`, `lse` and `state`.
//
// WGSL orders what one workgroup writes and another reads by nothing: atomics are relaxed, and barriers end at the workgroup. So
// no word of a part says anything of another. Each says for itself that it is there: words of `state` are 0 until they are
// written, what is written is never 0, and who finds 0 looks again. It cannot last: who looks was the last of those that
// write, told by a counter, and the others had written before they counted. It puts 0 back in the end.
//
// A word that is written is 1 more than the bits of a finite float32, or NAN_WORD, which is above all of them. So the least and
// the largest of some words say whether all are there and whether all are finite.
//
// It is written for little code: a workgroup runs it once, and waits for the code itself.

// Rows that share a key head: batch, first query head, which row is the first and how many there are, and vectors of columns of each.
struct Group {
  b: u32,
  h: u32,
  first: u32,
  rows: u32,
  vectors: u32,
}

const NAN_WORD: u32 = 0xffffffffu;

// Four columns of a row: words of acc, relative to m; and the row's m and l.
struct Joined {
  acc: vec4u,
  m: f32,
  l: f32,
}

// Words of four columns of acc, of which those whose bits in `bad` are set are NaN.
fn words_of(acc: vec4f, bad: vec4<bool>) -> vec4u {
  let bits = bitcast<vec4u>(acc);
  let finite = (bits & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
  return select(vec4u(NAN_WORD), bits + 1u, finite & !bad);
}

fn word_of(acc: f32, bad: bool) -> u32 {
  let bits = bitcast<u32>(acc);
  return select(NAN_WORD, bits + 1u, is_finite(bits) && !bad);
}

// What words stand for, and anything in the place of NaN.
fn floats_of(words: vec4u) -> vec4f {
  return bitcast<vec4f>(words - 1u);
}

// A part is acc [4, R, vectors], the first column of each vector first, then m [R] and l [R].
fn part_words(group: Group) -> u32 {
  return group.rows * (4u * group.vectors + 2u);
}

// What is relative to m, relative to a larger max.
fn weight4(m: vec4f, top: vec4f) -> vec4f {
  return select(exp2((m - subtrahend(top)) * args.to_exponent), vec4f(), m == vec4f(HIDDEN));
}

// Writes one column of a row to the part that begins at word `part`.
fn leave_column(group: Group, part: u32, r: u32, column: u32, word: u32) {
  atomicStore(&state[part + (column % 4u * group.rows + r) * group.vectors + column / 4u], word);
}

// Writes what belongs to all columns of a row.
fn leave_sums(group: Group, part: u32, r: u32, m: f32, l: f32) {
  let at = part + 4u * group.rows * group.vectors + r;
  atomicStore(&state[at], bitcast<u32>(m) + 1u);
  atomicStore(&state[at + group.rows], bitcast<u32>(l) + 1u);
}

// Writes vector n of all rows, of row r = n / vectors.
fn leave(group: Group, part: u32, n: u32, r: u32, joined: Joined) {
  let stride = group.rows * group.vectors;
  //#for e in 4
  atomicStore(&state[part + n + ${e}u * stride], joined.acc[${e}]);
  //#endfor
  if (n == r * group.vectors) {
    leave_sums(group, part, r, joined.m, joined.l);
  }
}

// Writes it to out.
fn finish(group: Group, n: u32, r: u32, joined: Joined) {
  let h = group.h + (group.first + r) / args.rows;
  let i = (group.first + r) % args.rows;
  let column = n - r * group.vectors;
  let head = head_of(group.b, h);
  let nan = joined.acc == vec4u(NAN_WORD);
  let marks = select(vec4u(), vec4u(1u, 2u, 4u, 8u), nan);
  let logit = select(joined.m, 0.0, joined.m == HIDDEN) * args.to_logit;
  let seen = finish_row(head, h, joined.m, logit, joined.l, false);
  //#if LSE
  if (column == 0u) {
    lse[head.index * args.rows + i - args.lse_first] = seen.lse;
  }
  //#endif
  let at = group.b * args.out_batch + h * args.out_head + i * args.out_row - args.out_first;
  store_out(at, column * 4u, select(floats_of(joined.acc), vec4f(), nan), marks.x | marks.y | marks.z | marks.w, seen);
}

// Vector n of some parts, as it was found: acc, m and l.
struct Found {
  //#for x in 4 * QUADS_TAKEN
  acc${x}: vec4u,
  //#endfor
  //#for quad in QUADS_TAKEN
  m${quad}: vec4u,
  l${quad}: vec4u,
  //#endfor
}

// Vector n, of row r, of parts [first, end) of those from word `start` on. Behind the last part it is the last again.
fn look(group: Group, first: u32, end: u32, start: u32, n: u32, r: u32) -> Found {
  let words = part_words(group);
  let stride = group.rows * group.vectors;
  var found: Found;
  //#for x in 4 * QUADS_TAKEN
  {
    let part = start + min(first + ${x}u, end - 1u) * words;
    found.acc${x} = vec4u(
      atomicLoad(&state[part + n]),
      atomicLoad(&state[part + n + stride]),
      atomicLoad(&state[part + n + 2u * stride]),
      atomicLoad(&state[part + n + 3u * stride]),
    );
    found.m${x / 4}[${x % 4}] = atomicLoad(&state[part + 4u * stride + r]);
    found.l${x / 4}[${x % 4}] = atomicLoad(&state[part + 4u * stride + group.rows + r]);
  }
  //#endfor
  return found;
}

fn is_there(found: Found) -> bool {
  var least = min(found.m0, found.l0);
  //#for quad in QUADS_TAKEN - 1
  least = min(least, min(found.m${quad + 1}, found.l${quad + 1}));
  //#endfor
  //#for x in 4 * QUADS_TAKEN
  least = min(least, found.acc${x});
  //#endfor
  return all(least != vec4u());
}

// Parts [first, end) as one.
fn join(found: Found, first: u32, end: u32) -> Joined {
  var top = HIDDEN;
  //#for quad in QUADS_TAKEN
  let there${quad} = vec4u(first + ${4 * quad}u) + vec4u(0u, 1u, 2u, 3u) < vec4u(end);
  let m${quad} = select(vec4f(HIDDEN), floats_of(found.m${quad}), there${quad});
  top = max(top, max(max(m${quad}.x, m${quad}.y), max(m${quad}.z, m${quad}.w)));
  //#endfor
  var acc = vec4f();
  var most = vec4u();
  var l = 0.0;
  //#for quad in QUADS_TAKEN
  let weight${quad} = weight4(m${quad}, vec4f(top));
  l += dot(weight${quad}, floats_of(found.l${quad}));
  //#for x in 4
  most = max(most, found.acc${4 * quad + x});
  acc = fma(vec4f(weight${quad}[${x}]), floats_of(found.acc${4 * quad + x}), acc);
  //#endfor
  //#endfor
  return Joined(words_of(acc, most == vec4u(NAN_WORD)), top, l);
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
  var most = vec4u();
  var l = 0.0;
  //#for x in SLICES
  {
    let words = bits_smem[${x * THREADS / SLICES}u + own];
    let weight = weight4(vec4f(ends${x}.x), vec4f(m));
    most = max(most, words);
    acc = fma(weight, floats_of(words), acc);
    l = fma(weight.x, ends${x}.y, l);
  }
  //#endfor
  return Joined(words_of(acc, most == vec4u(NAN_WORD)), m, l);
}
//#endif

// Counts part `split` of a key head, which this workgroup has left, and joins what it completes: sets of 4 QUADS_TAKEN SLICES parts to one part
// each, and those likewise, until one is left.
fn join_parts(group: Group, thread: u32, split: u32, first_counter: u32, first_word: u32) {
  let words = part_words(group);
  let stride = group.rows * group.vectors;
  var part = split;
  var parts = args.splits;
  var counter = first_counter;
  var word = first_word;
  loop {
    let which = part / ${4 * QUADS_TAKEN * SLICES}u;
    let sets = (parts + ${4 * QUADS_TAKEN * SLICES - 1}u) / ${4 * QUADS_TAKEN * SLICES}u;
    let size = min(${4 * QUADS_TAKEN * SLICES}u, parts - which * ${4 * QUADS_TAKEN * SLICES}u);
    // Of the threads, one in SLICES has a vector, and each of those a slice of the parts.
    let start = word + which * ${4 * QUADS_TAKEN * SLICES}u * words;
    let own = thread % ${THREADS / SLICES}u;
    let first = min(thread / ${THREADS / SLICES}u * ${4 * QUADS_TAKEN}u, size);
    let end = min(first + ${4 * QUADS_TAKEN}u, size);
    storageBarrier();
    // The way to memory and back is the same for a look and for counting. So threads look before they know whether this workgroup
    // is the last, and whether all is there; if it is the last, it mostly is.
    let ahead = min(own, stride - 1u);
    var found = look(group, first, end, start, ahead, ahead / group.vectors);
    if (thread == 0u) {
      counted_smem = atomicAdd(&state[counter + which], 1u) + 1u;
    }
    if (workgroupUniformLoad(&counted_smem) != size) {
      return;
    }
    for (var n0 = 0u; n0 < stride; n0 += ${THREADS / SLICES}u) {
      let n = n0 + own;
      let r = n / group.vectors;
      var joined: Joined;
      if (n < stride) {
        for (var again = n0 > 0u || !is_there(found); again; again = !is_there(found)) {
          found = look(group, first, end, start, n, r);
        }
        joined = join(found, first, end);
      }
      //#if SLICES > 1
      bits_smem[thread] = joined.acc;
      ends_smem[thread] = vec2f(joined.m, joined.l);
      //#endif
      workgroupBarrier();
      if (n < stride && thread == own) {
        //#if SLICES > 1
        joined = join_slices(own);
        //#endif
        if (sets == 1u) {
          finish(group, n, r, joined);
        } else {
          leave(group, word + (parts + which) * words, n, r, joined);
        }
      }
      // All have found these vectors, and put 0 back.
      if (n < stride) {
        //#for x in 4 * QUADS_TAKEN
        {
          let part = start + min(first + ${x}u, end - 1u) * words;
          //#for e in 4
          atomicStore(&state[part + n + ${e}u * stride], 0u);
          //#endfor
        }
        //#endfor
      }
      //#if SLICES > 1
      if (n0 + ${THREADS / SLICES}u < stride) {
        workgroupBarrier();
      }
      //#endif
    }
    // The rest of the parts: m and l.
    for (var n = thread; n < size * 2u * group.rows; n += ${THREADS}u) {
      let p = n / (2u * group.rows);
      atomicStore(&state[start + p * words + 4u * stride + (n - p * 2u * group.rows)], 0u);
    }
    if (thread == 0u) {
      atomicStore(&state[counter + which], 0u);
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
