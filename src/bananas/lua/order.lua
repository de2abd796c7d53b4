#!lua flags=allow-oom
-- Give a worker an order; its supervisor gets it with its next sign of life. Nothing but an operator may write to that list. No prelude.
-- KEYS 1 workers HASH, 2 orders:<boot> LIST
-- ARGV 1 now ms or '', 2 boot, 3 packed order, 4 ms for which it holds, 5 how many may wait
-- Returns 'g' (given), 'n' (no such worker is alive), 'f' (so many wait already); nothing was done but for 'g'.
local time = redis.call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000 + math.floor(time[2] / 1000)
local record = redis.call('HGET', KEYS[1], ARGV[2])
if not record or #record < 8 or struct.unpack('>I8', record) <= now then return 'n' end
if #redis.call('LRANGE', KEYS[2], 0, -1) >= tonumber(ARGV[5]) then return 'f' end
redis.call('LPUSH', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 'g'
