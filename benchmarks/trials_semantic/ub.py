from ev import *
from lin import ridge
DEV=np.load('dev_f.npy')[:,:1120]
rng=np.random.default_rng(0)
pred=np.zeros(1000); fold=rng.permutation(1000)%10
for k in range(10):
    m=fold!=k; pred[~m]=ridge(DEV[m],MOS[m],1e3)(DEV[~m])+MOS[m].mean()
print('labels CV',sr(pred,MOS),{k:round(sr(pred[SUB==k],MOS[SUB==k]),3) for k in sorted(set(SUB))}, {k:(round(MOS[SUB==k].mean(),3),round(MOS[SUB==k].std(),3)) for k in sorted(set(SUB))})
