#!lua flags=allow-oom
-- Add what a worker counted to the figures of its queue, in all, of the minute and of its ten, and note how deep the queue is now.
-- KEYS 12 seen:<boot>.tally, 13 stats:total HASH (for ever), 14 stats:<minute> HASH, 15 stats:ten:<tens> HASH, 16 recent ZSET by ms of its end
-- ARGV 2 number, 3 how long minutes are kept in ms, 4 count of names, 5 count of jobs that ended, then field and name of each, then those
--   jobs, each ms and packed, then fields and by how much each grows
-- Returns 1; error STALE.
-- Cost: 3 to 6 us a field; some 20 fields a task.
local resent = remembered(KEYS[12], tonumber(ARGV[2]))
if resent then return type(resent) == 'table' and resent or tonumber(resent) end
local named, ended = tonumber(ARGV[4]), tonumber(ARGV[5])
local after = 5 + 2 * named
if ended > 0 then
  call('ZADD', KEYS[16], unpack(ARGV, after + 1, after + 2 * ended))
  call('ZREMRANGEBYRANK', KEYS[16], 0, -201)
  call('PEXPIRE', KEYS[16], ARGV[3])
end
for _, STATS in ipairs({KEYS[13], KEYS[14], KEYS[15]}) do
  if named > 0 then call('HSET', STATS, unpack(ARGV, 6, after)) end
  for i = after + 2 * ended + 1, #ARGV, 2 do call('HINCRBY', STATS, ARGV[i], ARGV[i + 1]) end
end
local function ready(low, high) return call('ZCOUNT', READY, string.format('%.0f', low * STEP), string.format('(%.0f', high * STEP)) end
local depths = {'=h', ready(0, 301), '=n', ready(301, 700), '=l', ready(700, 1024), '=s', call('ZCARD', SCHEDULED), '=d', call('ZCARD', DEAD)}
for _, STATS in ipairs({KEYS[14], KEYS[15]}) do
  call('HSET', STATS, unpack(depths))
  call('PEXPIRE', STATS, ARGV[3])
end
return tonumber(remember(KEYS[12], tonumber(ARGV[2]), 1))
