// Which keys a row sees: the band of causal and window, and the user's mask on top. As core's mask.ts.
// The kernel's uniforms `args` have a member `score: Score` (lib/score.wgsl); with MASK there is a binding `mask: array<u32>`.

// Keys of some rows: [begin, end) are seen by some row, of which [full_begin, full_end) by every row, as far as the band decides.
struct Range {
  begin: u32,
  full_begin: u32,
  full_end: u32,
  end: u32,
}

// Of keys [0, keys), for rows [first, last].
fn key_range(first: u32, last: u32, keys: u32) -> Range {
  let lo = args.score.band_lo;
  let hi = args.score.band_hi;
  return range_of(i32(first) + lo, i32(last) + lo, i32(first) + hi, i32(last) + hi, keys);
}

// Of rows [0, rows), those that see keys [first, last]: key_range seen from the other side.
fn row_range(first: u32, last: u32, rows: u32) -> Range {
  let lo = args.score.band_lo;
  let hi = args.score.band_hi;
  return range_of(i32(first) - hi, i32(last) - hi, i32(first) - lo, i32(last) - lo, rows);
}

fn range_of(any_lo: i32, all_lo: i32, all_hi: i32, any_hi: i32, size: u32) -> Range {
  if (args.score.band_lo > args.score.band_hi) {
    return Range(0u, 0u, 0u, 0u);
  }
  let most = i32(size);
  let begin = clamp(any_lo, 0, most);
  let end = max(begin, clamp(any_hi + 1, 0, most));
  let full_begin = clamp(clamp(all_lo, 0, most), begin, end);
  let full_end = clamp(clamp(all_hi + 1, 0, most), full_begin, end);
  return Range(u32(begin), u32(full_begin), u32(full_end), u32(end));
}

fn in_band(i: u32, j: u32) -> bool {
  let distance = i32(j) - i32(i);
  return distance >= args.score.band_lo && distance <= args.score.band_hi;
}

// Bit n says whether key j + n, n < 8, is in the band of row i and in [begin, end).
fn band_bits(i: u32, j: u32, begin: u32, end: u32) -> u32 {
  let first = max(i32(i) + args.score.band_lo, i32(begin)) - i32(j);
  let behind = min(i32(i) + args.score.band_hi + 1, i32(end)) - i32(j);
  return (0xffu << u32(clamp(first, 0, 8))) & ~(0xffu << u32(clamp(behind, 0, 8))) & 0xffu;
}

//#if MASK
// Bit n says whether the mask shows key j + n, n < 32, to row i. Beyond the keys it says anything.
fn mask_bits(head: Head, i: u32, j: u32) -> u32 {
  let first = head.mask + i * args.score.mask_i + j * args.score.mask_j;
  let shift = (first & 3u) * 8u;
  var word = mask[first >> 2u];
  if (args.score.mask_j == 0u) {
    return select(0u, 0xffffffffu, extractBits(word, shift, 8u) != 0u);
  }
  var bits = 0u;
  for (var n = 0u; n < 8u; n++) {
    let next = mask[(first >> 2u) + n + 1u];
    // Four bytes from any byte on; a shift by 32 is none.
    let bytes = select((word >> shift) | (next << ((32u - shift) & 31u)), word, shift == 0u);
    // 1 in each byte that is not 0, then the four gathered into one nibble.
    let ones = ((((bytes & 0x7f7f7f7fu) + 0x7f7f7f7fu) | bytes) >> 7u) & 0x01010101u;
    bits |= (((ones * 0x01020408u) >> 24u) & 0xfu) << (4u * n);
    word = next;
  }
  return bits;
}
//#endif

fn visible(head: Head, i: u32, j: u32) -> bool {
  //#if MASK
  let at = head.mask + i * args.score.mask_i + j * args.score.mask_j;
  return in_band(i, j) && extractBits(mask[at >> 2u], (at & 3u) * 8u, 8u) != 0u;
  //#else
  return in_band(i, j);
  //#endif
}
