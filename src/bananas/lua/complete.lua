#!lua flags=allow-oom
-- End jobs for good (done, discarded, cancelled, expired): store the results that are wanted, forget the jobs, drop the leases.
-- KEYS 12 seen:<boot>.complete or .end, 13.. result:<id> of the jobs whose result is kept
-- ARGV 2 turn, 3 count, 4 '1' if the server is full (a result larger than the body that it frees is dropped), 5 the mark of a dropped result,
--   then the members id:boot:fence, then per result key: index of its member (1-based), ttl in ms, packed result
-- Returns a string, per member '1' (ended) or '0' (the lease is lost: nothing was changed for it); error STALE.
-- Cost: 1.8 to 2.7 us a job at 100 jobs, about 1 more with a result.
local turn, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local resent = remembered(KEYS[12], turn)
if resent then return resent end
local held, ids, members = call('ZMSCORE', LEASES, unpack(ARGV, 6, 5 + count)), {}, {}
local reply = {}
for i = 1, count do
  reply[i] = held[i] and '1' or '0'
  if held[i] then
    members[#members + 1] = ARGV[5 + i]
    ids[#ids + 1] = string.sub(ARGV[5 + i], 1, 43)
  end
end
local kept = {}
for k = 13, #KEYS do
  local at = 6 + count + (k - 13) * 3
  local member, blob = tonumber(ARGV[at]), ARGV[at + 2]
  if held[member] then
    if ARGV[4] == '1' and #blob > call('HSTRLEN', JOBS, string.sub(ARGV[5 + member], 1, 43)) then blob = ARGV[5] end
    call('SET', KEYS[k], blob, 'PX', ARGV[at + 1])
    kept[KEYS[k]] = blob
  end
end
forget(ids)
if #members > 0 then call('ZREM', LEASES, unpack(members)) end
remember(KEYS[12], turn, table.concat(reply))
for key, blob in pairs(kept) do redis.pcall('SPUBLISH', key, blob) end
return table.concat(reply)
