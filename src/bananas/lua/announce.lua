#!lua flags=allow-oom
-- A worker's sign of life in the registry of its namespace (a script, since a plain HSET is refused on a full server). Without the prelude.
-- KEYS 1 workers HASH, 2 queues SET
-- ARGV 1 now ms or '', 2 boot, 3 ttl ms, 4 packed record, then the names of the queues that it serves
-- Returns the server's time in ms. A field holds 8 bytes of expiry ms (big endian) and the record; readers drop the expired.
local time = redis.call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[2], struct.pack('>I8', now + ARGV[3]) .. ARGV[4])
for i = 5, #ARGV do redis.call('SADD', KEYS[2], ARGV[i]) end
return now
