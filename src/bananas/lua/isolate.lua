#!lua flags=allow-oom
-- Note that a suspect starts now, alone in its process: a crash from here on is its own.
-- KEYS none beyond the fixed ones
-- ARGV 2 member id:boot:fence
-- Returns 1, or 0 when the lease is lost (do not start it).
if not call('ZSCORE', LEASES, ARGV[2]) then return 0 end
local id, owner = string.sub(ARGV[2], 1, 43), string.sub(ARGV[2], 45)
local record = call('HGET', TRIES, id) or '0 0 0 0 - '
local counts, errors = string.match(record, '^(%d+ %d+ %d+ %d+) %S+ (.*)$')
call('HSET', TRIES, id, counts .. ' ' .. owner .. ' ' .. errors)
return 1
