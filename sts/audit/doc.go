// Package audit is the record of what the appliance granted and refused: an append-only log in a directory of
// segments, one JSON object a line, that answers an append only once the line is on the disk.
//
// # Format
//
// A segment is a file named by the index of its first entry, in 20 decimal digits, and ".jsonl":
// 00000000000000000000.jsonl. Entries are counted from 0 over all segments, without gaps, in the order of their
// lines. Entry i is the i-th line; nothing in the line repeats i.
//
// A line is one JSON object in the canonical form of RFC 8785 (JSON Canonicalization Scheme): keys sorted by their
// UTF-16 code units, no white space, the shortest form of each number, and in strings no escapes but those that JSON
// demands (so "<" stays "<"). Times are RFC 3339 in UTC with exactly six fractional digits. Invalid UTF-8 becomes
// U+FFFD. An integer among the claims beyond ±(2^53-1) is written as a string, as RFC 7493 section 2.2 advises. A line
// is at most MaxLine bytes and ends with one newline, which is not part of it; JSON escapes any newline within.
//
// The bytes of a line without its newline are one leaf of an RFC 6962 Merkle tree: the leaf hash of entry i is
// SHA-256(0x00 || line i). For that reason a line that was acknowledged is never changed, nor read and written anew.
//
// # Durability
//
// One goroutine writes. It takes every line that waits, makes one write(2) and one fdatasync(2) for all of them,
// and then answers all. An append that was answered survives a crash of the process and of the machine, as far
// as the disk tells the truth about its cache. An append that got an error may or may not be in the log, and counts as
// not being there: do not act upon it.
//
// Every Open starts a fresh segment (an empty one at the end is used), and so closes the one before: a file that an earlier
// process wrote is never appended to, so that a failed sync, of which only the process that saw it knew, needs no record of
// its own.
//
// A segment is followed by a new one when it is full (64 MiB) or, with the next entry that comes, a day after its first. So
// the last segment of a log that gets no entries stays open, however old it is.
//
// # Followers
//
// All that happens to an entry afterwards rests on the segments and not on queues: a Cursor reads the durable lines in order,
// as slowly as it likes. The Checkpointer is such a follower. It makes the Merkle tree of the lines, writes its tiles, and
// has checkpoints of it signed, at the latest a second after an entry while the signer is there. Neither the signer's
// absence nor any fault of tiles and checkpoint ever refuses an entry.
//
// # The directory
//
//   - NNN.jsonl: the segments. They are the record; all else here but the signatures can be made from them.
//   - checkpoint: the newest signed checkpoint (c2sp.org/tlog-checkpoint). It is replaced as a whole. Lost or older, it
//     costs nothing: the signer knows what it signed last.
//   - tile/L/N: a full tile of the tree, 256 hashes of 32 bytes (c2sp.org/tlog-tiles): L is the level, N the tile's number
//     on it, as 000 to 999 and then x001/000 and so on. Once written it never changes.
//   - tile/L/N.p/W: the first W hashes of a tile, written where a segment ends: of the partial tiles that a tree of that size
//     has, the one of the lowest level, which is 0 unless a full tile ends there, too. It stays when the full tile is there,
//     and says that the segment ended there and was not cut off. There are no other partial tiles: those of a checkpoint's
//     size follow from the lines, and those of higher levels from the tiles below.
//   - lock: held by the process that appends.
//   - *.tmp: a tile or checkpoint on its way, or what a crash left of one; it is written over.
//
// Tiles are derived from the lines while these are here: missing ones are written again after a start, and where tiles
// contradict what was signed, all are compared with the lines and put right before the log is said to be rewritten. A tile
// whose lines were moved away is not derived any more: keep it.
//
// The oldest segment may be moved away, with the daemon running or not, when the checkpoint's size is greater than the index
// in the next segment's name: its tiles are durable then, and the log starts, goes on and makes proofs without it. Then the
// next may follow: a gap between segments is no archive but a fault, to Open and to Verify. Other followers should have
// passed it as well, since a cursor that has not gets a MissingError. What may not be moved is the last segment, tile/ and
// checkpoint.
//
// # What it is not
//
// It is tamper-evident at most, and not tamper-proof: the files belong to whoever runs the daemon, and a directory by
// itself proves nothing about what that user removed. It knows nothing of HTTP, of GitHub or of trust policies; it does
// not decide what is worth logging; and it does not look for secrets in what it is given, so give it none.
package audit
