package admit

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/assert"
)

// A cell of a class by plan is there while a plan pins it, or somebody holds it, or it remembers
// something; then it is forgotten.
func TestPins_WhatIsForgotten(t *testing.T) {
	w := newWorld(t, standard())
	limit, rate, brk := slots("slots", 0, 2), w.rate("rate", 0, 1, sec, 1), circuit("breaker", breaker.Config{Failures: 2, Window: sec, Cooldown: sec})
	classes := []*Class{limit, rate, brk}
	for _, k := range classes {
		k.ByPlan = true
	}
	there := func(want ...bool) {
		t.Helper()
		for i, k := range classes {
			w.m.Prune(w.now, k)
			if (k.Lookup("x") != nil) != want[i] || k.Len() != len(k.cells) {
				t.Errorf("at %d: %s is there: %v, want %v; %d listed of %d", w.now, k.Name, k.Lookup("x") != nil, want[i], k.Len(), len(k.cells))
			}
		}
	}
	pin := func() (cells []*Cell) {
		for _, k := range classes {
			cells = append(cells, w.m.Pin(w.now, k, "x"))
		}
		return cells
	}
	unpin := func(cells []*Cell) {
		for _, c := range cells {
			w.m.Unpin(w.now, c)
		}
	}
	first := pin()
	second := pin()
	for i := range first {
		if first[i] != second[i] {
			t.Errorf("%s: two cells of one key", classes[i].Name)
		}
	}
	unpin(first)
	there(true, true, true) // the second plan's
	call := w.arrive("call", 0, "", part{limit, "x", 1}, part{rate, "x", 1}, part{brk, "x", 1})
	unpin(second)
	there(true, true, true) // the call's
	w.ended(call, breaker.Failure)
	w.sees("call")
	there(false, true, true) // a token is missing, a failure is counted
	if again := pin(); again[1] != first[1] || again[2] != first[2] {
		t.Error("what was remembered was made anew")
	} else {
		unpin(again)
	}
	w.at(sec)
	there(false, false, true)
	w.at(3600 * sec)
	there(false, false, false)
	w.m.Unpin(w.now, w.m.Pin(w.now, slots("other", 0, 1), "")) // of other classes nothing is forgotten
}

// What an adaptive limit has learned is remembered without a plan, as far as there is room.
func TestPins_AdaptiveLimitsAreRemembered(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("adaptive", 0, 1)
	k.Adaptive, k.ByPlan = &Adaptive{Min: 1, Max: 64}, true
	for i := range 2 * maxRemembered {
		key := fmt.Sprint(i)
		c := w.m.Pin(w.now, k, key)
		w.finish(w.arrive("call", 0, "", part{k, key, 1}))
		if i == 0 && c.limit == k.Limit {
			t.Fatal("it learned nothing from a success")
		}
		w.m.Unpin(w.now, c)
		if k.Lookup(key) != c && i < maxRemembered {
			t.Fatalf("what %s learned is forgotten, of %d cells", key, k.Len())
		}
	}
	assert.Equal(t, maxRemembered, k.Len(), "cells are remembered")
}

// What no plan pins is bounded: what would be forgotten first goes, but never what somebody
// holds, and where a cell is asked for without a plan there is none.
func TestPins_Bounded(t *testing.T) {
	w := newWorld(t, standard())
	k := w.rate("rate", 0, 1, sec, 10_000)
	k.ByPlan = true
	for i := range 3 * maxRemembered {
		c := w.m.Pin(w.now, k, fmt.Sprint(i))
		x := w.m.Ticket()
		w.m.Add(x, c, int64(1+i)) // the later the longer it remembers
		w.m.Arrive(w.now, x)
		w.m.Finish(w.now, x, breaker.Success)
		w.m.Free(x)
		w.m.Unpin(w.now, c)
	}
	if k.Len() != maxRemembered || k.Lookup(fmt.Sprint(2*maxRemembered)) == nil || k.Lookup(fmt.Sprint(2*maxRemembered-1)) != nil {
		t.Errorf("%d cells are remembered, want the %d that remember longest", k.Len(), maxRemembered)
	}
	assert.Nil(t, w.m.Cell(w.now, k, "new"), "a cell was made without a plan beyond the bound")
	assert.NotNil(t, w.m.Pin(w.now, k, "new"), "a plan did not get its cell")

	s := slots("slots", 0, 1)
	s.ByPlan = true
	var calls []*Ticket
	for i := range 2 * maxRemembered {
		c := w.m.Pin(w.now, s, fmt.Sprint(i))
		calls = append(calls, w.arrive("call", 0, "", part{s, fmt.Sprint(i), 1}))
		w.m.Unpin(w.now, c)
	}
	if s.Len() != 2*maxRemembered {
		t.Errorf("%d cells, want all %d whose calls run", s.Len(), 2*maxRemembered)
	}
	w.finish(calls...)
	assert.Zero(t, s.Len(), "cells are left of calls that have ended")
}

// Cells and lanes that are there all the while are in some batch, no batch is larger than asked
// for, and what comes and goes meanwhile does no harm.
func TestBatches_MissNothing(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, standard())
		k := slots("keys", 2, 1)
		k.MaxKeys = 1 << 20
		full := slots("full", 7, 1)
		w.arrive("holder", 0, "", full)
		waits := map[string]*Ticket{}
		come := func(key string) {
			waits[key] = w.arrive(key, 0, "", part{k, key, 1}, full)
		}
		stay := map[string]bool{}
		for i := range 300 {
			key := fmt.Sprint("stay-", i)
			if i%2 == 1 {
				key = fmt.Sprint("go-", i)
			} else {
				stay[key] = true
			}
			come(key)
		}
		size := 1 + r.IntN(40)
		cells, lanes := map[string]bool{}, map[uint64]string{}
		var cellBuf []*Cell
		var laneBuf []Lane
		for from, lanesFrom := k.Len(), w.m.LaneCount(); from > 0 || lanesFrom > 0; {
			cellBuf, from = k.Batch(cellBuf[:0], from, size)
			laneBuf, lanesFrom = w.m.LaneBatch(laneBuf[:0], lanesFrom, size)
			if len(cellBuf) > size || len(laneBuf) > size {
				t.Fatalf("batches of %d and %d, want at most %d", len(cellBuf), len(laneBuf), size)
			}
			for _, c := range cellBuf {
				cells[c.Key()] = true
			}
			for _, l := range laneBuf {
				if was, twice := lanes[l.Born]; twice && was != l.Owner.(string) {
					t.Fatalf("lanes of %s and %s have one name", was, l.Owner)
				}
				lanes[l.Born] = l.Owner.(string)
			}
			for range r.IntN(10) {
				key := fmt.Sprint("go-", r.IntN(400))
				if c := waits[key]; c != nil {
					w.cancel(c)
					w.m.Free(c)
					delete(waits, key)
					if cell := k.Lookup(key); cell != nil {
						k.forget(cell)
					}
				} else {
					come(key)
				}
			}
		}
		byOwner := map[string]bool{}
		for _, o := range lanes {
			byOwner[o] = true
		}
		for key := range stay {
			if !cells[key] || !byOwner[key] {
				t.Fatalf("seed %d: %s: read as a cell %v, as a lane %v", seed, key, cells[key], byOwner[key])
			}
		}
	}
}
