package proxy

// layout1 is how records lay in flow files of version 1, which didn't say so themselves: their header has only a hash of it, which that version
// made in another way.
const (
	layout1Hash = 0x407e190969823cf5
	layout1     = `128
key.low uint8x16 0
key.high uint8x16 16
key.lowPort uint16 32
key.highPort uint16 34
flags uint8 36
state uint8 37
service uint16 38
tries uint8 40
wscale uint8 41
trafficClass uint8 42
former uint8x3 43
fins uint8x2 46
clientISN uint32 48
cookie uint32 52
clientTSVal uint32 56
delta uint32 60
tsDelta uint32 64
lastSeen uint32 68
created int64 72
half[0].bytes uint64 80
half[0].end uint32 88
half[0].ack uint32 92
half[0].maxWindow uint32 96
half[0].window uint16 100
half[0].scale uint8 102
half[0].promised uint8 103
half[1].bytes uint64 104
half[1].end uint32 112
half[1].ack uint32 116
half[1].maxWindow uint32 120
half[1].window uint16 124
half[1].scale uint8 126
half[1].promised uint8 127
`
)
