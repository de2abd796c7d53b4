#!lua
-- Put new jobs into ready or scheduled, once per batch number. Refused by the server when it is full (no allow-oom).
-- KEYS 12 seen:<boot>
-- ARGV 2 batch number, 3 count, then per job: id, packed envelope, delay in ms (0 = ready now), unique key ('' = none);
--   an envelope may have a time in front, as 8 bytes from 0 on: see `stored`
-- Returns '' when every job is new, else per job the id that stands for it (the holder's of its unique key), 43 characters each;
--   error STALE when a later batch was seen.
-- Cost: 3 to 6 us a job at 100 jobs.
local number, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local resent = remembered(KEYS[12], number)
if resent then return resent end
local birth = struct.pack('>I8', NOW)
-- What is stored of an envelope: behind its birth. A large one comes with the time by its client's clock in front, and is stored as it came
-- where that is at most a quarter of a second ago: to make another string of 100 KB takes 200 us, most of it Lua's hash of every byte.
local function stored(body)
  if string.byte(body) ~= 0 then return birth .. body end
  local age = NOW - struct.unpack('>I8', body)
  return age >= 0 and age <= 250 and body or birth .. string.sub(body, 9)
end
local bodies, ready, scheduled, ids, held = {}, {}, {}, {}, false
for i = 4, 4 * count, 4 do
  local id, delay, key = ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local holder = key ~= '' and call('HGET', UNIQUE, '=' .. key)
  ids[#ids + 1] = holder or id
  if holder then
    held = true
  else
    if key ~= '' then call('HSET', UNIQUE, '=' .. key, id, id, key) end
    bodies[#bodies + 1], bodies[#bodies + 2] = id, stored(ARGV[i + 1])
    if delay > 0 then
      scheduled[#scheduled + 1], scheduled[#scheduled + 2] = NOW + delay, id
    else
      ready[#ready + 1], ready[#ready + 2] = string.format('%.0f', tonumber(string.sub(id, 41, 43), 16) * STEP + NOW), id
    end
  end
end
if #bodies > 0 then call('HSET', JOBS, unpack(bodies)) end
if #scheduled > 0 then
  local first = tonumber(call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]) or math.huge
  call('ZADD', SCHEDULED, unpack(scheduled))
  if tonumber(call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]) < first then arm() end
end
make_ready(ready)
return remember(KEYS[12], number, held and table.concat(ids) or '')
