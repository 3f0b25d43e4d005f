//go:build race

package main

// raceDetector says that the tests run under the race detector, so that the program under test does as well.
const raceDetector = true
