#!lua flags=allow-oom
-- The last step of a move: a job that another queue has taken in leaves this one; its id points to the new one for a while.
-- KEYS 12 moved:<id>
-- ARGV 2 id, 3 its new public id, 4 ms for which that is known
-- Returns 'e' (gone, now or by an earlier call), 'l' (it runs, ended or died here meanwhile: nothing was done).
if call('ZSCORE', SCHEDULED, ARGV[2]) then
  call('SET', KEYS[12], ARGV[3], 'PX', ARGV[4])
  call('ZREM', SCHEDULED, ARGV[2])
  forget({ARGV[2]})
  return 'e'
end
return call('GET', KEYS[12]) == ARGV[3] and 'e' or 'l'
