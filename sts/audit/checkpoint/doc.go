// Package checkpoint is the signed head of the audit log's Merkle tree: a checkpoint of c2sp.org/tlog-checkpoint in a
// signed note of c2sp.org/signed-note, the keys that verify it, and the question whether one checkpoint extends another.
//
// It is pure: no files, no clock, no network. The signer, the daemon and whoever verifies a log offline share it, so that
// they cannot disagree about what a checkpoint says.
//
// Where the specifications leave room, this package is narrow. An origin is a valid key name, and the log signs under it.
// A checkpoint has no extension lines. Base64 is canonical and no signature line stands twice, so that no byte of a
// note can change without notice.
package checkpoint
