#!lua flags=allow-oom
-- Bring a damaged job into one place, if all that is known of it is still as the caller saw it; or tell what is known of it.
-- KEYS none beyond the fixed ones
-- ARGV 2 id, 3 most leases to search, 4 the digest of what was seen ('' = only tell), then 5 the place: ready, scheduled, dead, leases, or ''
--   (nothing is stored of it: forget it), 6 its score there, 7 the lease to keep ('' = none), 8 '1' to drop its changed priority
-- Returns {1 if it was done, else 0, now ms, digest, score in ready, due ms, ms of death, bytes of the body, birth ms, changed priority,
--   {member, expiry, ...}: its leases, 1 if all leases were searched}; what is not there is ''. Not done: nothing was changed.
-- Cost: about 20 us, and 0.6 us a lease searched.
local id, most, count = ARGV[2], tonumber(ARGV[3]), call('ZCARD', LEASES)
local leases, members, body = {}, {}, call('HGET', JOBS, id) or ''
for rank = 0, math.min(count, most) - 1, 1000 do
  local part = call('ZREVRANGE', LEASES, rank, rank + 999, 'WITHSCORES')
  for i = 1, #part, 2 do
    if part[i] == id or string.sub(part[i], 1, 44) == id .. ':' then
      leases[#leases + 1], leases[#leases + 2] = part[i], part[i + 1]
      members[#members + 1] = part[i] .. (tonumber(part[i + 1]) > NOW and ' live' or '')
    end
  end
end
table.sort(members)
local ready, due, died = call('ZSCORE', READY, id) or '', call('ZSCORE', SCHEDULED, id) or '', call('ZSCORE', DEAD, id) or ''
local prio, birth = call('HGET', PRIO, id) or '', #body >= 8 and string.format('%.0f', struct.unpack('>I8', body)) or ''
local digest = redis.sha1hex(table.concat({ready, due, died, #body, birth, prio, unpack(members)}, ' '))
local known = {NOW, digest, ready, due, died, #body, birth, prio, leases, count <= most and 1 or 0}
if ARGV[4] ~= digest then return {0, unpack(known)} end

local place, score, keep = ARGV[5], ARGV[6], ARGV[7]
if ARGV[8] == '1' then call('HDEL', PRIO, id) end
if place == 'ready' then
  make_ready({score, id})
elseif place == 'scheduled' then
  call('ZADD', SCHEDULED, score, id)
  arm()
elseif place == 'dead' then
  call('ZADD', DEAD, score, id)
elseif place == 'leases' then
  call('ZADD', LEASES, score, keep)
end
if place ~= 'ready' then call('ZREM', READY, id) end
if place ~= 'scheduled' then call('ZREM', SCHEDULED, id) end
if place ~= 'dead' then call('ZREM', DEAD, id) end
for i = 1, #leases, 2 do
  if leases[i] ~= keep then call('ZREM', LEASES, leases[i]) end
end
if place == '' then forget({id}) end
return {1, unpack(known)}
