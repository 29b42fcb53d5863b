package sluiceredis

import (
	_ "embed"

	"github.com/redis/rueidis"
)

// Each decision is one script. What they say of themselves stands at their head.
var (
	//go:embed lua/meter.lua
	meterLua string
	//go:embed lua/take.lua
	takeLua string
	//go:embed lua/take_one.lua
	takeOneLua string
	//go:embed lua/settle.lua
	settleLua string
	//go:embed lua/hold.lua
	holdLua string
	//go:embed lua/epoch.lua
	epochLua string
	//go:embed lua/record.lua
	recordLua string
	//go:embed lua/fetch.lua
	fetchLua string
	//go:embed lua/commit.lua
	commitLua string
	//go:embed lua/write.lua
	writeLua string
	//go:embed lua/erase.lua
	eraseLua string
	//go:embed lua/add.lua
	addLua string
	//go:embed lua/scan.lua
	scanLua string
	//go:embed lua/slots.lua
	slotsLua string
	//go:embed lua/publish.lua
	publishLua string

	takeScript    = rueidis.NewLuaScript(meterLua + takeLua)
	takeOneScript = rueidis.NewLuaScript(takeOneLua)
	settleScript  = rueidis.NewLuaScript(meterLua + settleLua)
	holdScript    = rueidis.NewLuaScript(meterLua + holdLua)
	epochScript   = rueidis.NewLuaScript(epochLua)
	fetchScript   = rueidis.NewLuaScript(fetchLua)
	commitScript  = rueidis.NewLuaScript(recordLua + commitLua)
	writeScript   = rueidis.NewLuaScript(recordLua + writeLua)
	eraseScript   = rueidis.NewLuaScript(recordLua + eraseLua)
	addScript     = rueidis.NewLuaScript(recordLua + addLua)
	scanScript    = rueidis.NewLuaScript(scanLua)
	slotsScript   = rueidis.NewLuaScript(slotsLua)
	publishScript = rueidis.NewLuaScript(publishLua)
)
