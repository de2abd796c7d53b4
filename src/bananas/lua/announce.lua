#!lua flags=allow-oom
-- A worker's sign of life in the registry of its namespace (a script, since a plain HSET is refused on a full server). Without the prelude.
-- KEYS 1 workers HASH, 2 queues SET, 3 orders:<boot> LIST
-- ARGV 1 now ms or '', 2 boot, 3 ttl ms, 4 packed record, 5 number of orders that it has obeyed, then these, then the queues that it serves
-- Returns {the server's time in ms, the orders that wait for it, the newest first}. A field holds 8 bytes of expiry ms (big endian) and the
--   record; readers drop the expired.
local time, served = redis.call('TIME'), 6 + ARGV[5]
local now = tonumber(ARGV[1]) or time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[2], struct.pack('>I8', now + ARGV[3]) .. ARGV[4])
for i = 6, served - 1 do redis.call('LREM', KEYS[3], 0, ARGV[i]) end
for i = served, #ARGV do redis.call('SADD', KEYS[2], ARGV[i]) end
return {now, unpack(redis.call('LRANGE', KEYS[3], 0, -1))}
